"""Each page fits a phone, and meets WCAG 2.1 AA in light and dark, as axe-core finds."""

import json

import pytest
from axe_playwright_python.sync_playwright import Axe

from melange.server.control import CONSOLE_PREFIX

_PAGES = [
    "overview",
    "queue",
    "empty queue",
    "dead-letter queue",
    "message",
    "send",
    "topic",
    "topic that delivers nothing",
    "publish",
    "purge",
    "dead letters",
    "log",
    "story",
    "faults",
    "problem",
]


@pytest.fixture
def addresses(given, server):
    """The addresses of all pages, with something to see on each."""
    orders, dead = given.queue_with_dead_letters()
    empty = given.queue("a-queue-with-a-long-name-" + "x" * 50)
    topic = given.topic_for(orders, FilterPolicy='{"kind": ["order"]}')
    given.dead_letter(orders, "no JSON " + "long " * 300)
    given.send(orders, json.dumps({"lamps": 2, "note": "x" * 300}), event_type_name="OrderPlaced")
    given.sns.publish(TopicArn=topic, Message="filtered out")
    silent = given.sns.create_topic(Name="payments")["TopicArn"]
    given.sns.subscribe(TopicArn=silent, Protocol="sqs", Endpoint=given.arn(orders))
    server.faults.add("throttle", operation="ReceiveMessage", name="orders", rate=0.5)
    orders_page = f"queues/{given.arn(orders)}"
    return {
        "overview": "",
        "queue": orders_page,
        "empty queue": f"queues/{given.arn(empty)}",
        "dead-letter queue": f"queues/{given.arn(dead)}",
        "message": orders_page + "/messages/",
        "send": orders_page + "/send",
        "topic": f"topics/{topic}",
        "topic that delivers nothing": f"topics/{silent}",
        "publish": f"topics/{topic}/publish",
        "purge": orders_page + "/purge",
        "dead letters": "dead-letters",
        "log": "log",
        "story": "log/",
        "faults": "faults",
        "problem": "no/such/page",
    }


@pytest.fixture
def visit(context, server, addresses):
    """Open each page and call a function with its name and the page."""

    def each(check):
        page = context.new_page()
        for name in _PAGES:
            address = addresses[name]
            page.goto(server.url + CONSOLE_PREFIX + address.removesuffix("messages/").rstrip("/"))
            if address.endswith("/"):
                page.locator(".message-link").first.click()
                page.wait_for_load_state()
            page.locator("details").evaluate_all("found => found.forEach(one => { one.open = true; })")
            check(name, page)

    return each


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 400)])
def test_pages_meet_wcag_aa(context, visit, scheme, width):
    found = {}

    def check(name, page):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
        results = Axe().run(page, options=options)
        for violation in results.response["violations"]:
            found[name, violation["id"]] = [node["html"] for node in violation["nodes"]]

    visit(check)

    assert found == {}


def test_low_contrast_would_be_found(page):
    page.emulate_media(color_scheme="light")
    page.evaluate("document.querySelector('h1').style.color = '#bbb'")

    results = Axe().run(page, options={"runOnly": ["wcag2aa"]})

    assert [violation["id"] for violation in results.response["violations"]] == ["color-contrast"]


def test_no_page_scrolls_sideways_on_a_phone(visit):
    too_wide = {}

    def check(name, page):
        page.set_viewport_size({"width": 400, "height": 800})
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > 400:
            too_wide[name] = width

    visit(check)

    assert too_wide == {}
