"""How messages look on SNS and SQS, and back."""

import json
from datetime import UTC, datetime

import pytest

from melange.drivers.aws.wire import delivery_from, publish_entry, send_entry
from melange.messages import Message, Queue

QUEUE = Queue("stock", "https://sqs.us-east-1.amazonaws.com/123456789012/stock")
ENVELOPE = {
    "Type": "Notification",
    "MessageId": "sns-id",
    "TopicArn": "arn:aws:sns:us-east-1:123456789012:products",
    "Message": '{"name":"Coolers"}',
    "Timestamp": "2026-01-01T00:00:00.000Z",
    "MessageAttributes": {
        "trace": {"Type": "String", "Value": "abc"},
        "count": {"Type": "Number", "Value": "5"},
        "blob": {"Type": "Binary", "Value": "AAE="},
    },
}


def raw(body, attributes=None, **system):
    return {
        "MessageId": "sqs-id",
        "ReceiptHandle": "handle",
        "Body": body,
        "Attributes": {"ApproximateReceiveCount": "3", **system},
        **({"MessageAttributes": attributes} if attributes else {}),
    }


def text(value, data_type="String"):
    return {"DataType": data_type, "StringValue": value}


def received(body, attributes=None, **system):
    return delivery_from(raw(body, attributes, **system), QUEUE, 5.0, 0).message


def test_a_message_is_published_with_its_metadata_as_attributes():
    message = Message(
        "id-1",
        "{}",
        event_type_name="ProductAdded",
        headers={"trace": "abc"},
        published_at=datetime(2026, 1, 1, tzinfo=UTC),
        message_group_id="g",
        message_deduplication_id="d",
    )

    assert publish_entry(message) == {
        "Message": "{}",
        "MessageAttributes": {
            "melange-message-id": text("id-1"),
            "melange-event-type": text("ProductAdded"),
            "melange-published-at": text("2026-01-01T00:00:00+00:00"),
            "trace": text("abc"),
        },
        "MessageGroupId": "g",
        "MessageDeduplicationId": "d",
    }


def test_a_message_that_is_sent_at_once_has_an_id_and_a_type_only():
    message = Message("id-1", "{}", event_type_name="ProductAdded", published_at=datetime.now(UTC))

    attributes = publish_entry(message)["MessageAttributes"]

    assert list(attributes) == ["melange-message-id", "melange-event-type"]


def test_a_body_that_is_not_json_says_what_it_is():
    entry = send_entry(Message("id-1", "a,b", content_type="text/csv"))

    assert entry["MessageAttributes"]["melange-content-type"] == text("text/csv")
    assert received("a,b", entry["MessageAttributes"]).content_type == "text/csv"


@pytest.mark.parametrize(
    ("attributes", "sent", "published_at"),
    [
        (None, "1767225600250", datetime(2026, 1, 1, 0, 0, 0, 250_000, tzinfo=UTC)),
        (
            {"melange-published-at": text("2025-12-31T00:00:00+00:00")},
            "1767225600250",
            datetime(2025, 12, 31, tzinfo=UTC),
        ),
        ({"melange-published-at": text("yesterday")}, "1767225600000", datetime(2026, 1, 1, tzinfo=UTC)),
        (None, "soon", None),
        (None, "9" * 30, None),
        (None, None, None),
    ],
)
def test_a_message_without_a_time_was_published_when_it_was_sent(attributes, sent, published_at):
    assert received("{}", attributes, SentTimestamp=sent).published_at == published_at


def test_a_message_is_sent_with_its_delay_if_it_has_one():
    assert send_entry(Message("id-1", "{}"), 7)["DelaySeconds"] == 7
    assert "DelaySeconds" not in send_entry(Message("id-1", "{}"), 0)


def test_a_delivery_holds_what_the_broker_says_of_it():
    delivery = delivery_from(raw("{}", MessageGroupId="g", MessageDeduplicationId="d"), QUEUE, 5.0, 0)

    assert (delivery.receive_count, delivery.receipt_handle, delivery.deadline) == (3, "handle", 5.0)
    assert (delivery.message.message_group_id, delivery.message.message_deduplication_id) == ("g", "d")


def test_a_message_of_somebody_else_is_known_by_its_sqs_id():
    message = received("plain text", {"trace": text("abc")})

    assert message.message_id == "sqs-id"
    assert message.body == "plain text"
    assert message.headers == {"trace": "abc"}


def test_numbers_are_their_text_and_bytes_are_base64():
    attributes = {
        "count": text("5", "Number"),
        "blob": {"DataType": "Binary", "BinaryValue": b"\x00\x01"},
        "empty": {"DataType": "Binary"},
    }

    assert received("{}", attributes).headers == {"count": "5", "blob": "AAE=", "empty": ""}


def test_an_envelope_is_taken_off():
    message = received(json.dumps(ENVELOPE))

    assert message.body == '{"name":"Coolers"}'
    assert message.message_id == "sns-id"
    assert message.headers == {"trace": "abc", "count": "5", "blob": "AAE="}


def test_a_message_of_ours_in_an_envelope_keeps_its_id_and_type():
    attributes = {
        "melange-message-id": {"Type": "String", "Value": "id-1"},
        "melange-event-type": {"Type": "String", "Value": "ProductAdded"},
    }

    message = received(json.dumps({**ENVELOPE, "MessageAttributes": attributes}))

    assert (message.message_id, message.event_type_name) == ("id-1", "ProductAdded")


def test_what_we_sent_is_never_unwrapped_even_when_it_looks_like_an_envelope():
    body = json.dumps(ENVELOPE)

    assert received(body, {"melange-message-id": text("id-1")}).body == body


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"Message": "mine", "Type": "mine"}),
        json.dumps({**ENVELOPE, "Type": "mine"}),
        json.dumps({**ENVELOPE, "Message": {"mine": 1}}),
        json.dumps({**ENVELOPE, "TopicArn": 5}),
        json.dumps({**ENVELOPE, "Message": ""}),
        json.dumps({**ENVELOPE, "Message": "\x00"}),
        json.dumps({**ENVELOPE, "Message": "\ud800"}),
        json.dumps([ENVELOPE]),
        '"TopicArn"',
        '{"TopicArn": ' + "[" * 100_000,
        '{"TopicArn"',
    ],
    ids=[
        "own keys",
        "type",
        "message",
        "topic",
        "empty",
        "null",
        "surrogate",
        "list",
        "string",
        "nested",
        "cut",
    ],
)
def test_a_body_that_is_no_envelope_is_data(body):
    assert received(body).body == body


@pytest.mark.parametrize(
    "attributes",
    [
        None,
        [],
        "x",
        {"a": 5},
        {"a": {}},
        {"a": {"Value": 5}},
        {"a": {"Value": "\x01"}},
        {"a": {"Value": ""}},
        {"a b": {"Value": "c"}},
        {"melange-event-type": {"Value": "\x01"}},
        {"melange-content-type": {"Value": "\ud800"}},
    ],
)
def test_odd_attributes_in_an_envelope_are_left_out(attributes):
    message = received(json.dumps({**ENVELOPE, "MessageAttributes": attributes}))

    assert message.body == ENVELOPE["Message"]
    assert message.headers == {}
    assert message.event_type_name is None
    assert message.content_type == "application/json"


@pytest.mark.parametrize("message_id", [None, 5, "", {}, "a\nforged line of a log", "a" * 129])
def test_an_envelope_without_a_usable_id_falls_back_to_the_sqs_id(message_id):
    assert received(json.dumps({**ENVELOPE, "MessageId": message_id})).message_id == "sqs-id"


def test_folded_headers_cannot_stand_in_for_the_id_or_the_type():
    folded = {"trace": "abc", "melange-message-id": "forged", "melange-event-type": "Forged"}

    message = received(
        "{}", {"melange-message-id": text("id-1"), "melange-headers": text(json.dumps(folded))}
    )

    assert message.headers == {"trace": "abc"}
    assert send_entry(message, 0)["MessageAttributes"]["melange-message-id"]["StringValue"] == "id-1"
