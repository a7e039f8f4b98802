"""Whatever arrives from SQS becomes a delivery; what melange sends comes back as it was."""

import json
from datetime import UTC

from hypothesis import given
from hypothesis import strategies as st

from melange.drivers.aws.wire import delivery_from, publish_entry, send_entry
from melange.drivers.sqs_rules import attributes_of, can_travel, check_message
from melange.messages import Message, Queue

QUEUE = Queue("stock", "https://sqs.us-east-1.amazonaws.com/123456789012/stock")

SENDABLE = st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="\ufffe\uffff")
TEXT = st.text(SENDABLE, max_size=40)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,30}", fullmatch=True).filter(
    lambda name: not name.startswith("melange-")
)
IDS = st.from_regex(r"[A-Za-z0-9-]{1,40}", fullmatch=True)
MESSAGES = st.builds(
    Message,
    message_id=IDS,
    body=TEXT.filter(bool),
    event_type_name=st.none() | TEXT.filter(bool),
    headers=st.dictionaries(NAMES, TEXT, max_size=14),
    published_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    content_type=st.just("application/json"),
    message_group_id=st.none() | IDS,
    message_deduplication_id=st.none() | IDS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
ENVELOPES = st.fixed_dictionaries(
    {"Type": st.just("Notification") | JSON, "TopicArn": st.text() | JSON},
    optional={
        "Message": st.text() | JSON,
        "MessageId": st.text() | JSON,
        "MessageAttributes": JSON
        | st.dictionaries(
            st.text(max_size=3)
            | st.sampled_from(
                ["melange-content-type", "melange-event-type", "melange-message-id", "melange-headers"]
            ),
            st.fixed_dictionaries({"Value": st.text() | JSON}),
            max_size=3,
        ),
    },
)
BODIES = st.text() | JSON.map(json.dumps) | ENVELOPES.map(json.dumps)
ATTRIBUTES = st.dictionaries(
    st.text()
    | st.sampled_from(
        ["melange-message-id", "melange-headers", "melange-published-at", "melange-event-type"]
    ),
    st.fixed_dictionaries(
        {"DataType": st.sampled_from(["String", "Number", "String.x"]), "StringValue": st.text()}
    )
    | st.fixed_dictionaries({"DataType": st.just("Binary"), "BinaryValue": st.binary()}),
    max_size=5,
)


def on_the_way(body, entry):
    """What SQS hands out for an entry that came by raw delivery, or by a send."""
    attributes = {
        "MessageGroupId": entry.get("MessageGroupId"),
        "MessageDeduplicationId": entry.get("MessageDeduplicationId"),
    }
    return {
        "MessageId": "sqs-id",
        "ReceiptHandle": "handle",
        "Body": body,
        "Attributes": {name: value for name, value in attributes.items() if value},
        "MessageAttributes": entry["MessageAttributes"],
    }


@given(MESSAGES)
def test_a_published_message_comes_back_as_it_was(message):
    entry = publish_entry(message)

    assert delivery_from(on_the_way(entry["Message"], entry), QUEUE, 1.0, 30).message == message


@given(MESSAGES)
def test_a_sent_message_comes_back_as_it_was(message):
    entry = send_entry(message, 0)

    assert delivery_from(on_the_way(entry["MessageBody"], entry), QUEUE, 1.0, 30).message == message


@given(MESSAGES)
def test_a_message_comes_back_as_it_was_out_of_an_envelope_too(message):
    entry = publish_entry(message)
    envelope = {
        "Type": "Notification",
        "MessageId": "sns-id",
        "TopicArn": "arn:aws:sns:us-east-1:123456789012:products",
        "Message": entry["Message"],
        "MessageAttributes": {
            name: {"Type": value["DataType"], "Value": value["StringValue"]}
            for name, value in entry["MessageAttributes"].items()
        },
    }
    raw = on_the_way(json.dumps(envelope), {**entry, "MessageAttributes": {}})

    assert delivery_from(raw, QUEUE, 1.0, 30).message == message


@given(MESSAGES)
def test_no_message_has_more_than_ten_attributes_or_an_empty_one(message):
    attributes = publish_entry(message)["MessageAttributes"]

    assert len(attributes) <= 10
    assert all(attribute["StringValue"] for attribute in attributes.values())


@given(BODIES, ATTRIBUTES)
def test_whatever_arrives_becomes_a_message_with_text_in_it(body, attributes):
    raw = {"MessageId": "sqs-id", "ReceiptHandle": "h", "Body": body, "MessageAttributes": attributes}

    message = delivery_from(raw, QUEUE, 1.0, 30).message

    assert isinstance(message.body, str)
    assert isinstance(message.message_id, str)
    assert message.message_id
    assert all(isinstance(value, str) for value in message.headers.values())


@given(ENVELOPES.map(json.dumps))
def test_what_came_in_an_envelope_can_be_sent_on(body):
    raw = {"MessageId": "sqs-id", "ReceiptHandle": "h", "Body": body}

    message = delivery_from(raw, QUEUE, 1.0, 30).message

    check_message(message, max_bytes=1_048_576, is_fifo=False)
    assert all(map(can_travel, attributes_of(message).values()))
