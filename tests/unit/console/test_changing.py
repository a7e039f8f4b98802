"""What the console's forms do to messages, queues and topics, and which forms are not accepted."""

import json

import pytest

from melange.server.http import Request

NOTE = {"reason": "ValueError: no lines", "listener": "Billing", "queue": "billing", "attempts": 5}


def dead_letter(browser, url, body="{}", **note):
    attribute = {"DataType": "String", "StringValue": json.dumps(NOTE | note)}
    browser.client.send(url, body, MessageAttributes={"melange-dead-letter": attribute})


def with_dead_letters(browser, *names):
    """Make queues with the dead-letter queue ``dlq``, and return its address and its ARN."""
    dead = browser.client.queue("dlq")
    arn = browser.client.arn(dead)
    for name in names:
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
        browser.client.queue(name, RedrivePolicy=policy)
    return dead, arn


def keys(browser, arn):
    return [message.key for message in browser.backend.messages(arn).messages]


def test_a_form_sends_a_message_with_typed_attributes(browser):
    url = browser.client.queue("orders")
    arn = browser.client.arn(url)

    response = browser.post(
        f"queues/{arn}/send",
        {
            "body": '{"order": 1}\r\n',
            "is_json": "yes",
            "attribute_name": ["count", "picture", ""],
            "attribute_type": ["Number", "Binary.png", "String"],
            "attribute_value": ["3", "AAE=", ""],
        },
    )

    assert "Sent: message" in browser.follow(response)
    [message] = browser.client.receive(url, MessageAttributeNames=["All"])
    assert message["Body"] == '{"order": 1}\n'
    assert message["MessageAttributes"] == {
        "count": {"DataType": "Number", "StringValue": "3"},
        "picture": {"DataType": "Binary.png", "BinaryValue": b"\x00\x01"},
    }


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"body": '{"order": 1,}', "is_json": "yes"}, "The body is not JSON: line 1, column"),
        ({"body": ""}, "must contain the parameter MessageBody"),
        ({"body": "1", "delay_seconds": "-1"}, "from 0 to 900"),
        ({"body": "1", "delay_seconds": "901"}, "DelaySeconds"),
        ({"body": "1", "attribute_name": "", "attribute_value": "x"}, "needs a name"),
        (
            {"body": "1", "attribute_name": "n", "attribute_type": "Number", "attribute_value": "x"},
            "to a number",
        ),
        (
            {"body": "1", "attribute_name": "n", "attribute_type": "Binary", "attribute_value": "%"},
            "Base64",
        ),
    ],
)
def test_a_message_that_is_refused_stays_in_the_form(browser, fields, reason):
    url = browser.client.queue("orders")

    response = browser.post(f"queues/{browser.client.arn(url)}/send", fields | {"group_id": "kept"})

    assert response.status == 400
    page = response.body.decode()
    assert reason in page
    assert 'value="kept"' in page
    assert browser.client.receive(url) == []


def test_the_form_is_filled_with_the_last_message_without_its_identity(browser):
    url = browser.client.queue("orders")
    attributes = {
        name: {"DataType": "String", "StringValue": value}
        for name, value in (("melange-message-id", "id-1"), ("melange-event-type", "Placed"))
    }
    browser.client.send(url, "first")
    browser.client.send(url, '{"order":1}', MessageAttributes=attributes)

    draft = browser.backend.last_draft(browser.client.arn(url))

    assert draft.body == '{\n  "order": 1\n}'
    assert list(draft.attributes) == ["melange-event-type"]


def test_the_form_of_a_topic_is_filled_with_what_was_published_to_it(browser):
    topic, url = browser.client.topic(), browser.client.queue("orders")
    browser.client.subscribe(topic, url)
    browser.client.sns("Publish", TopicArn=topic, Message="published")
    browser.client.send(url, "sent by another")

    assert browser.backend.last_draft(topic).body == "published"


def test_a_form_publishes_to_a_topic(browser):
    topic, url = browser.client.topic(), browser.client.queue("orders")
    browser.client.subscribe(topic, url)

    response = browser.post(f"topics/{topic}/publish", {"body": "order 1", "subject": "Order"})

    assert "Published: message" in browser.follow(response)
    assert "What happened to it" in browser.follow(response)
    assert browser.client.bodies(url) == ["order 1"]


def test_releasing_makes_a_message_in_flight_visible(browser):
    url = browser.client.queue("orders")
    browser.client.send(url, "order 1")
    browser.client.receive(url)
    arn = browser.client.arn(url)

    browser.post(f"queues/{arn}/messages/{keys(browser, arn)[0]}/release")

    assert browser.client.bodies(url) == ["order 1"]


def test_deleting_messages_asks_first(browser):
    url = browser.client.queue("orders")
    browser.client.send(url, "1", "2")
    arn = browser.client.arn(url)
    fields = {"action": "delete", "key": keys(browser, arn)[:1]}

    asked = browser.post(f"queues/{arn}/selected", fields)
    assert "Delete 1 message?" in asked.body.decode()
    assert len(keys(browser, arn)) == 2
    browser.post(f"queues/{arn}/selected", fields | {"is_sure": "yes"})

    assert browser.client.bodies(url) == ["2"]


def test_moved_messages_are_new_ones_in_the_other_queue(browser):
    url, other = browser.client.queue("orders"), browser.client.queue("others")
    browser.client.send(url, "order 1")
    browser.client.receive(url, VisibilityTimeout=0)
    arn = browser.client.arn(url)

    browser.post(
        f"queues/{arn}/selected",
        {"action": "move", "target": browser.client.arn(other), "key": keys(browser, arn)},
    )

    assert keys(browser, arn) == []
    [message] = browser.client.receive(other)
    assert message["Body"] == "order 1"
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


def test_a_message_that_moves_to_its_fifo_queue_again_is_not_dropped_as_a_duplicate(browser):
    url = browser.client.queue("orders.fifo")
    other = browser.client.queue("others.fifo")
    browser.client.send(url, "order 1", MessageGroupId="a", MessageDeduplicationId="d")
    arn, other_arn = browser.client.arn(url), browser.client.arn(other)

    browser.backend.move(arn, keys(browser, arn), other_arn)
    browser.backend.move(other_arn, keys(browser, other_arn), arn)

    assert browser.client.bodies(url) == ["order 1"]


def test_a_retried_dead_letter_goes_back_to_the_queue_that_its_note_names(browser):
    dead, arn = with_dead_letters(browser, "billing", "mail")
    dead_letter(browser, dead, "letter")

    browser.post(f"queues/{arn}/selected", {"action": "retry", "key": keys(browser, arn)})

    [message] = browser.client.receive("billing", MessageAttributeNames=["All"])
    assert message["Body"] == "letter"
    assert "MessageAttributes" not in message


def test_a_retried_dead_letter_goes_back_to_the_queue_that_the_broker_moved_it_from(browser):
    _, arn = with_dead_letters(browser, "billing", "mail")
    browser.client.send("mail", "letter")
    browser.client.receive("mail", VisibilityTimeout=0)
    browser.client.receive("mail")

    browser.post(f"queues/{arn}/retry")

    assert browser.client.bodies("mail") == ["letter"]


def test_nothing_is_retried_if_one_origin_is_not_known(browser):
    dead, arn = with_dead_letters(browser, "billing", "mail")
    dead_letter(browser, dead)
    dead_letter(browser, dead, queue="none")

    response = browser.post(f"queues/{arn}/retry")

    assert response.status == 400
    assert "is not known from which queue" in response.body.decode()
    assert len(keys(browser, arn)) == 2


def test_dead_letters_are_grouped_and_retried_by_reason(browser):
    dead, arn = with_dead_letters(browser, "billing")
    for number in range(3):
        dead_letter(browser, dead, str(number), reason=f"ValueError: order {number} has no lines")
    dead_letter(browser, dead, "other", reason="RejectError: expired")

    assert "ValueError: order .. has no lines" in browser.text("dead-letters")
    browser.post(f"queues/{arn}/retry", {"reason": "ValueError: order .. has no lines"})

    assert sorted(browser.client.bodies("billing")) == ["0", "1", "2"]
    assert len(keys(browser, arn)) == 1


def test_a_reason_that_is_no_valid_text_can_be_retried(browser):
    dead, arn = with_dead_letters(browser, "billing")
    dead_letter(browser, dead, "letter", reason="\ud800")

    assert browser.get("dead-letters").status == 200
    browser.post(f"queues/{arn}/retry", {"reason": "\\ud800"})

    assert browser.client.bodies("billing") == ["letter"]


def test_purging_and_deleting_ask_first(browser):
    topic, url = browser.client.topic(), browser.client.queue("orders")
    browser.client.send(url, "1", "2")
    arn = browser.client.arn(url)

    assert "2 now" in browser.text(f"queues/{arn}/purge")
    assert len(keys(browser, arn)) == 2
    browser.post(f"queues/{arn}/purge")
    assert keys(browser, arn) == []
    assert "Delete orders?" in browser.text(f"queues/{arn}/delete")
    browser.post(f"queues/{arn}/delete")
    browser.post(f"topics/{topic}/delete")

    overview = browser.backend.overview()
    assert not overview.queues
    assert not overview.topics


def test_faults_are_added_and_removed(browser):
    browser.client.queue("orders")

    browser.post(
        "faults",
        {"kind": "error", "operation": "SendMessage", "name": "orders", "percent": "50", "status": "503"},
    )

    [fault] = browser.faults.all()
    assert (fault.kind, fault.operation, fault.name, fault.rate, fault.status) == (
        "error",
        "SendMessage",
        "orders",
        0.5,
        503,
    )
    assert "1 fault is active." in browser.text()
    browser.post(f"faults/{fault.id}/remove")
    assert browser.faults.all() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "flood"},
        {"kind": "error", "percent": "101"},
        {"kind": "error", "percent": "nan"},
        {"kind": "error", "times": "inf"},
        {"kind": "error", "status": "200"},
    ],
)
def test_a_wrong_fault_is_refused_with_the_reason(browser, fields):
    response = browser.post("faults", fields)

    assert response.status == 400
    assert 'role="alert"' in response.body.decode()
    assert browser.faults.all() == []


def test_the_clock_moves_ahead(browser):
    url = browser.client.queue("orders")
    browser.client.send(url, "order 1", DelaySeconds=300)

    browser.post("clock", {"seconds": "300"})

    assert browser.client.bodies(url) == ["order 1"]


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "1e99", "soon", ""])
def test_the_clock_goes_forward_only(browser, seconds):
    assert browser.post("clock", {"seconds": seconds}).status == 400


def test_standard_queues_can_deliver_twice(browser):
    url = browser.client.queue("orders")

    browser.post("disorder", {"duplicates": "100", "shuffle": "yes"})

    browser.client.send(url, "order 1")
    assert browser.client.bodies(url) == ["order 1", "order 1"]


def test_a_reset_asks_first(browser):
    browser.client.queue("orders")

    assert "1 queues" in browser.text("reset")
    browser.post("reset")

    assert browser.backend.overview().queues == []


def test_a_snapshot_is_restored_after_a_question(browser):
    url = browser.client.queue("orders")
    browser.client.send(url, "order 1")
    browser.post("snapshots", {"snapshot": "before"})
    browser.client.sqs("PurgeQueue", QueueUrl=url)

    assert "which has 1 messages" in browser.text("snapshots/before/restore")
    assert browser.client.bodies(url) == []
    browser.post("snapshots/before/restore")

    assert browser.client.bodies(url) == ["order 1"]
    browser.post("snapshots/before/remove")
    assert browser.get("snapshots/before/restore").status == 404


@pytest.mark.parametrize("name", ["", "a b", "../x", "a" * 81])
def test_a_snapshot_needs_a_plain_name(browser, name):
    assert browser.post("snapshots", {"snapshot": name}).status == 400


@pytest.mark.parametrize("token", ["", "wrong", "\u00e9"])
def test_a_form_without_the_token_changes_nothing(browser, token):
    url = browser.client.queue("orders")
    browser.client.send(url, "order 1")

    response = browser.post(f"queues/{browser.client.arn(url)}/purge", {"token": token})

    assert response.status == 403
    assert browser.client.bodies(url) == ["order 1"]


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/json"])
def test_only_forms_are_read(browser, kind):
    response = browser.post("reset", {}, **{"content-type": kind})

    assert response.status == 403


def test_looking_never_changes_anything(browser):
    arn = browser.client.arn(browser.client.queue("orders"))

    for path in (f"queues/{arn}/retry", f"queues/{arn}/selected", "clock", "disorder"):
        assert browser.get(path).status == 404


def test_pages_and_assets_have_the_headers_that_keep_them_safe(browser):
    for path in ("", "assets/console.css", "nothing"):
        headers = browser.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "'unsafe-inline'" not in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_that_fails_is_a_page_that_says_so(browser, caplog):
    browser.backend.overview = None  # anything that breaks

    response = browser.console.answer(Request("GET", "/_melange/console/", {}))

    assert response.status == 500
    assert "This page failed" in response.body.decode()
    assert "TypeError" in caplog.text


def test_an_address_with_too_many_fields_is_refused_without_an_error_in_the_log(browser, caplog):
    answer = browser.get("?" + "&".join(f"name={number}" for number in range(3_000)))

    assert answer.status == 400
    assert not caplog.records
