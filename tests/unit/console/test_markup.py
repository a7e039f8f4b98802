"""Text of others never becomes markup, whatever page shows it. ``tests/browser`` shows the same in Chromium."""

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest

from unit.console.given import Browser

_PAYLOADS = (
    Path(__file__).parents[2].joinpath("browser", "payloads.txt").read_text(encoding="utf-8").splitlines()
)


class _Elements(HTMLParser):
    """Counts the elements of a page, without those that highlight text."""

    def __init__(self):
        super().__init__()
        self.tags = Counter()
        self.handlers = []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += tag != "span"
        self.handlers += [
            (name, value)
            for name, value in attrs
            if name.startswith("on") or (value or "").lower().lstrip().startswith(("javascript:", "data:"))
            if name != "value"
        ]


def _identifier_with(text):
    """Return the text as far as a message group may have it: 1 to 128 characters of ASCII that can be seen."""
    return "".join(one if "!" <= one <= "~" else "/" for one in text)[:128]


def _elements(response):
    parser = _Elements()
    parser.feed(response.body.decode())
    parser.close()
    return parser


def _pages(browser, text):
    """Return the answers of all pages that show text of others, with this text in each place."""
    client = browser.client
    url, dead = client.queue("orders"), client.queue("dead")
    topic = client.topic()
    client.subscribe(topic, url, FilterPolicy=json.dumps({"kind": [text]}))
    policy = json.dumps({"deadLetterTargetArn": client.arn(dead), "maxReceiveCount": 3})
    client.sqs("SetQueueAttributes", QueueUrl=url, Attributes={"RedrivePolicy": policy})
    note = json.dumps({"reason": text, "queue": text, "listener": text})
    values = {"event_type_name": text, "header": text, "melange-dead-letter": note}
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in values.items()}
    client.send(dead, f"body: {text}", MessageAttributes=attributes)
    client.sns("Publish", TopicArn=topic, Message=text)
    fifo = client.queue("orders.fifo")
    identifier = _identifier_with(text)
    typed = {name: {"DataType": f"String.{text}", "StringValue": text} for name in ("onload", "__proto__")}
    for number in range(2):  # the second waits behind the first of its group
        client.send(
            fifo,
            text,
            MessageGroupId=identifier,
            MessageDeduplicationId=f"{number}{identifier}"[:128],
            MessageAttributes=typed,
        )
    client.receive(fifo, MaxNumberOfMessages=1)
    browser.faults.add("error", name=text, times=1)
    arn = client.arn(dead)
    [message] = browser.backend.messages(arn).messages
    in_groups = browser.backend.messages(client.arn(fifo)).messages
    query = quote(text)
    addresses = [
        "",
        f"queues/{arn}",
        f"queues/{arn}?text={query}&state={query}&after={query}&order={query}",
        f"queues/{arn}?reason=none+{query}",
        f"queues/{arn}/messages/{message.key}",
        f"queues/{arn}/send",
        f"queues/{client.arn(fifo)}",
        *(f"queues/{client.arn(fifo)}/messages/{one.key}" for one in in_groups),
        f"queues/{client.arn(fifo)}/send",
        "faults",
        f"topics/{topic}",
        "dead-letters",
        "log",
        f"log?text={query}&message_id={query}&event_type={query}",
        f"log/{message.message_id}",
        f"log/{quote(text, safe='')}",
        f"no/such/{quote(text, safe='')}?notice={query}",
    ]
    refused = browser.post(f"queues/{arn}/send", {"body": f"body: {text}", "delay_seconds": text})
    return [*map(browser.get, addresses), refused]


@pytest.fixture(scope="module")
def plain():
    """The elements of pages that show harmless text."""
    browser = Browser()
    yield [_elements(page).tags for page in _pages(browser, "harmless")]
    browser.console.close()


@pytest.mark.parametrize("payload", _PAYLOADS, ids=range(len(_PAYLOADS)))
def test_a_payload_adds_no_element_and_no_handler(browser, plain, payload):
    pages = [_elements(page) for page in _pages(browser, payload)]

    assert [page.tags for page in pages] == plain
    assert [page.handlers for page in pages if page.handlers] == []


@pytest.mark.parametrize(
    "name", ["__proto__", "constructor", "-onload-canary-", "--", "javascript", "a" * 80]
)
def test_odd_names_that_sqs_allows_are_shown(browser, name):
    topic, url = browser.client.topic(name), browser.client.queue(name)
    browser.client.subscribe(topic, url)
    browser.client.send(url, "order 1", MessageAttributes={name: {"DataType": "String", "StringValue": name}})
    arn = browser.client.arn(url)
    [message] = browser.backend.messages(arn).messages

    for address in ("", f"queues/{arn}", f"topics/{topic}", f"queues/{arn}/messages/{message.key}"):
        response = browser.get(address)

        assert response.status == 200
        assert name in response.body.decode()
        assert _elements(response).handlers == []
