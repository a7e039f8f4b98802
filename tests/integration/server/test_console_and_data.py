"""What is changed in the console is kept on disk."""

from melange.server.broker import Broker
from melange.server.storage import Storage
from unit.console.given import Browser
from unit.server.given import Client


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
