"""No text of a message, a fault or a search becomes markup: nothing of a corpus of payloads runs.

The pages are opened without their content security policy, so that escaping alone has to hold.
"""

import json
from itertools import cycle
from pathlib import Path
from urllib.parse import urlencode

import pytest

from melange.server.control import CONSOLE_PREFIX

_PAYLOADS = Path(__file__).with_name("payloads.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def unprotected(chromium):
    """A page without a content security policy, and the list of what calls ``canary``."""
    context = chromium.new_context(bypass_csp=True)
    calls = []
    context.expose_binding("canary", lambda source: calls.append(source["page"].url))
    page = context.new_page()
    page.on("dialog", lambda dialog: (calls.append(dialog.message), dialog.dismiss()))
    yield page, calls
    context.close()


@pytest.fixture
def look(unprotected, server):
    """Open a page of the console and return its number of elements that a payload has made."""
    page, calls = unprotected

    def open_page(path):
        page.goto(server.url + CONSOLE_PREFIX + path)
        page.mouse.move(300, 300)
        page.wait_for_timeout(20)  # handlers of errors and focus run after the page is there
        assert calls == [], path
        made = "main :is(script, img, iframe, object, embed, video, audio, style, marquee, [onerror], [onload], [onfocus])"
        assert page.locator(made).count() == 0, path

    return open_page


def _attribute(text):
    return {"DataType": "String", "StringValue": text}


def test_payloads_in_messages_do_not_run(given, look):
    url, dead = given.queue_with_dead_letters()
    topic = given.topic_for(dead)
    for payload in _PAYLOADS:
        note = {"reason": payload, "queue": payload, "listener": payload, "attempts": 3}
        attributes = {"event_type_name": payload, "header": payload, "melange-event-type": payload[:200]}
        given.send(url, payload, **attributes)
        given.send(
            dead, json.dumps({payload: payload}), **{**attributes, "melange-dead-letter": json.dumps(note)}
        )
        if payload.isprintable() and len(payload) <= 100:
            given.sns.publish(TopicArn=topic, Message=payload, Subject=payload)

    for queue_url in (url, dead):
        arn = given.arn(queue_url)
        look(f"queues/{arn}")
        for key in _keys(given, queue_url):
            look(f"queues/{arn}/messages/{key}")
    look("dead-letters")
    look("log")
    look(f"queues/{given.arn(dead)}/send")
    look(f"topics/{topic}/publish")


def _keys(given, url):
    """Return the keys of some messages: each tenth, so that every position in a page has several payloads."""
    queue = given.server.broker.queues[given.arn(url)]
    return [copy.number for copy in queue.stored.copies][::10]


def test_the_page_of_each_payload_does_not_run_it(given, look):
    url = given.queue()
    arn = given.arn(url)
    for payload in _PAYLOADS:
        given.send(url, payload, event_type_name=payload, **{"melange-event-type": payload[:200]})

    copies = list(given.server.broker.queues[arn].stored.copies)
    for copy in copies:
        look(f"queues/{arn}/messages/{copy.number}")
    for copy in copies[::5]:
        look(f"log/{given.server.broker.message_id(copy.origin)}")


def test_payloads_in_groups_data_types_and_faults_do_not_run(given, look):
    url = given.queue("orders.fifo", FifoQueue="true")
    arn = given.arn(url)
    for number, payload in enumerate(_PAYLOADS):
        identifier = "".join(one if "!" <= one <= "~" else "/" for one in payload)[:128]
        given.sqs.send_message(
            QueueUrl=url,
            MessageBody=payload,
            MessageGroupId=identifier,
            MessageDeduplicationId=f"{number}{identifier}"[:128],
            MessageAttributes={"__proto__": {"DataType": f"String.{payload}"[:256], "StringValue": payload}},
        )
        given.server.faults.add("throttle", operation="Publish", name=payload)
    given.receive(url)

    look(f"queues/{arn}")
    for key in _keys(given, url):
        look(f"queues/{arn}/messages/{key}")
    look(f"queues/{arn}/send")
    look("faults")
    look("log")


def test_payloads_in_filters_and_settings_do_not_run(given, look):
    url = given.queue()
    for number, payload in enumerate(_PAYLOADS):
        topic = given.topic_for(url, f"topic-{number}", FilterPolicy=json.dumps({"kind": [payload]}))
        given.sns.set_topic_attributes(
            TopicArn=topic, AttributeName="DisplayName", AttributeValue=payload[:100]
        )
        given.sns.publish(TopicArn=topic, Message="filtered out")

    look("")
    look("log")
    for number in range(0, len(_PAYLOADS), 6):
        look(f"topics/arn:aws:sns:us-east-1:000000000000:topic-{number}")


def test_payloads_in_addresses_do_not_run(given, look):
    places = cycle(["log", f"queues/{given.arn(given.queue())}", "no/such/page"])
    for payload in _PAYLOADS:
        query = urlencode(
            dict.fromkeys(("text", "state", "after", "message_id", "event_type", "notice", "reason"), payload)
        )
        look(f"{next(places)}?{query}")


def test_payloads_in_refused_forms_do_not_run(given, server, unprotected):
    page, calls = unprotected
    arn = given.arn(given.queue())
    for payload in _PAYLOADS[::9]:
        page.goto(f"{server.url}{CONSOLE_PREFIX}queues/{arn}/send")
        page.get_by_label("Body").fill(payload)
        page.get_by_label("Check that it is JSON").check()
        page.get_by_label("Name of attribute 1").fill(payload)
        page.get_by_label("Value of attribute 1").fill(payload)
        page.get_by_role("button", name="Send").click()
        page.wait_for_load_state()
        assert calls == []
        assert page.get_by_label("Body").input_value() == payload


def test_the_payloads_would_run_as_markup(unprotected):
    """Otherwise the tests above would show nothing."""
    page, calls = unprotected
    running = 0
    for payload in _PAYLOADS:
        calls.clear()
        page.set_content(f"<!doctype html><html><head></head><body><pre>{payload}</pre></body></html>")
        for _ in range(10):  # handlers of errors and focus run soon after the page is there
            if calls:
                break
            page.wait_for_timeout(20)
        running += bool(calls)

    assert running >= len(_PAYLOADS) / 2
