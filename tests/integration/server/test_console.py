"""The console of a running server, as a browser meets it."""

import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from melange.server import Broker, Server
from melange.server.storage import Storage
from unit.console.given import Browser
from unit.server.given import Client


def get(url, **headers):
    return urlopen(Request(url, headers={"Accept": "text/html"} | headers), timeout=10)


def test_the_address_of_a_server_leads_to_its_console():
    with Server() as server, get(server.url) as response:
        assert response.url == f"{server.url}/_melange/console/"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert server.url.encode() in response.read()


def test_a_server_can_do_without_a_console():
    with Server(console=False) as server, pytest.raises(HTTPError) as refusal:
        get(server.url)

    assert refusal.value.code == 404
    refusal.value.close()


def test_templates_are_imported_when_a_browser_comes():
    program = """
import sys, urllib.request
from melange.server import Server
with Server() as server:
    before = "jinja2" in sys.modules
    urllib.request.urlopen(server.url + "/_melange/console/").read()
    print(before, "jinja2" in sys.modules)
"""

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ended.stdout.split() == ["False", "True"]


def test_without_the_extra_the_console_says_what_is_missing():
    program = """
import sys, urllib.error, urllib.request
sys.modules["jinja2"] = None
from melange.server import Server
with Server() as server:
    try:
        urllib.request.urlopen(server.url + "/_melange/console/")
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode())
"""

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert (
        ended.stdout.strip()
        == "503 the console needs jinja2: pip install '.[server]' in a checkout of melange"
    )


def restarted(directory):
    """Return a browser for a broker with what the directory has, and its storage."""
    broker = Broker()
    storage = Storage(directory, broker)
    broker.keep_in(storage)
    return Browser(Client(broker)), storage


def keys(browser, arn):
    return [message.key for message in browser.backend.messages(arn).messages]


def test_what_the_console_changes_survives_a_restart(tmp_path):
    browser, storage = restarted(tmp_path)
    arn, other = (browser.client.arn(browser.client.queue(name)) for name in ("orders", "others"))
    browser.client.send("orders", "1", "2", "3")
    one, two, _ = keys(browser, arn)

    browser.post(f"queues/{arn}/selected", {"action": "delete", "is_sure": "yes", "key": one})
    browser.post(f"queues/{arn}/selected", {"action": "move", "target": other, "key": two})
    browser.post(f"queues/{other}/send", {"body": "4"})
    storage.close()
    browser, storage = restarted(tmp_path)

    assert browser.client.bodies("orders") == ["3"]
    assert browser.client.bodies("others") == ["2", "4"]
    storage.close()
