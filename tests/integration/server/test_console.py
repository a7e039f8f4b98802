"""The console of a running server, as a browser meets it."""

import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from melange.server import Server


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
