"""A dead letter is the message as it was received, with a note as far as there is space for one."""

import json
from datetime import UTC, datetime

import pytest

from aws_answers import FIFO_QUEUE, QUEUE, CannedBroker, InstantClock, batch_answer, sqs_answer, sqs_error
from melange.drivers.aws.wire import delivery_from
from melange.errors import AccessDeniedError, InvalidMessageError
from melange.messages import Delivery, Message, Queue

NOTE = json.dumps({"reason": "no " * 400, "listener": "bill", "attempts": 5, "errors": ["a" * 300]})
LARGEST = 1_048_576
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793"
SENT = sqs_answer(MessageId="copy")
NOTED = "melange-dead-letter"


@pytest.fixture
def broker():
    broker = CannedBroker()
    broker.will_answer("SendMessage", SENT)
    return broker


def dead_letters_of(queue, max_message_bytes=LARGEST):
    target = Queue(f"dlq-{queue.name}", f"{queue.address}-dlq", queue.is_fifo, max_message_bytes)
    return Queue(queue.name, queue.address, queue.is_fifo, dead_letter_queue=target)


def text(value, data_type="String"):
    return {"DataType": data_type, "StringValue": value}


def dead_lettered(broker, body, attributes=None, *, queue=QUEUE, note=NOTE, system=None, max_bytes=LARGEST):
    raw = {
        "MessageId": "sqs-id",
        "ReceiptHandle": "handle",
        "Body": body,
        "Attributes": {"ApproximateReceiveCount": "3", **(system or {})},
        "MessageAttributes": attributes or {},
    }
    delivery = delivery_from(raw, dead_letters_of(queue, max_bytes), 1_000.0, 30)
    broker.driver().dead_letter(delivery, note)
    entry = broker.sent["SendMessage"][-1]
    again = {**raw, "Body": entry["MessageBody"], "MessageAttributes": entry["MessageAttributes"]}
    return entry, delivery.message, delivery_from({**again, "MessageId": "other"}, queue, 1_000.0, 30).message


def test_attributes_keep_their_types(broker):
    attributes = {
        "weight": text("7", "Number"),
        "picture": {"DataType": "Binary.png", "BinaryValue": b"\x00\x01"},
        "shop": text("north", "String.Array"),
    }

    entry, _, _ = dead_lettered(broker, "plain", attributes)

    sent = entry["MessageAttributes"]
    assert {name: sent[name] for name in attributes} == attributes
    assert sent[NOTED] == text(NOTE)


def test_the_copy_keeps_the_time_at_which_the_message_was_sent(broker):
    _, message, copy = dead_lettered(broker, "{}", system={"SentTimestamp": "1767225600000"})

    assert copy.published_at == message.published_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_binary_attributes_arrive_as_they_were_received(broker):
    raw = {
        "MessageId": "sqs-id",
        "ReceiptHandle": "handle",
        "Body": "{}",
        "MessageAttributes": {"picture": {"DataType": "Binary", "BinaryValue": "AAE="}},
    }
    broker.will_answer("ReceiveMessage", sqs_answer(Messages=[raw]))
    driver = broker.driver()

    driver.dead_letter(driver.receive(dead_letters_of(QUEUE), 1, 0)[0], NOTE)

    sent = json.loads(broker.bodies[-1])["MessageAttributes"]
    assert sent["picture"] == {"DataType": "Binary", "BinaryValue": "AAE="}


def test_the_trace_header_goes_along(broker):
    entry, _, _ = dead_lettered(broker, "plain", system={"AWSTraceHeader": TRACE})

    assert entry["MessageSystemAttributes"] == {"AWSTraceHeader": text(TRACE)}


def test_an_envelope_stays_and_is_read_again_with_the_same_id(broker):
    body = json.dumps(
        {
            "Type": "Notification",
            "MessageId": "sns-id",
            "TopicArn": "arn:aws:sns:us-east-1:123456789012:products",
            "Subject": "hello",
            "Message": "{}",
        }
    )

    entry, before, after = dead_lettered(broker, body)

    assert entry["MessageBody"] == body
    assert (after.message_id, after.body) == (before.message_id, before.body) == ("sns-id", "{}")
    assert after.headers[NOTED] == NOTE


def test_a_message_of_others_keeps_the_id_by_which_it_was_known(broker):
    _, before, after = dead_lettered(broker, "plain")

    assert before.message_id == after.message_id == "sqs-id"


def test_a_fifo_dead_letter_keeps_its_group_and_has_a_deduplication_id_of_its_receipt(broker):
    system = {"MessageGroupId": "order-7", "MessageDeduplicationId": "theirs"}

    entry, _, _ = dead_lettered(broker, "plain", queue=FIFO_QUEUE, system=system)

    assert entry["MessageGroupId"] == "order-7"
    assert entry["MessageDeduplicationId"] not in {"theirs", "sqs-id"}


def test_the_tenant_of_a_message_on_a_standard_queue_goes_along(broker):
    entry, _, _ = dead_lettered(broker, "plain", system={"MessageGroupId": "tenant-7"})

    assert entry["MessageGroupId"] == "tenant-7"
    assert "MessageDeduplicationId" not in entry


def test_a_foreign_message_with_ten_attributes_goes_as_it_is(broker):
    attributes = {f"name-{number}": text(str(number), "Number") for number in range(10)}

    entry, _, _ = dead_lettered(broker, "plain", attributes)

    assert entry["MessageAttributes"] == attributes


def test_a_message_of_melange_with_ten_attributes_gets_its_note_and_keeps_its_headers(broker):
    headers = {f"name-{number}": text(str(number)) for number in range(9)}

    entry, before, after = dead_lettered(broker, "{}", {"melange-message-id": text("id-1"), **headers})

    assert len(entry["MessageAttributes"]) == 10
    assert after.headers == {**before.headers, NOTED: NOTE}
    assert after.message_id == "id-1"


def test_a_note_joins_the_folded_headers_where_ten_attributes_are_taken(broker):
    attributes = {
        "melange-message-id": text("id-1"),
        **{f"name-{number}": text(str(number)) for number in range(8)},
        "melange-headers": text('{"empty":""}'),
    }

    _, before, after = dead_lettered(broker, "{}", attributes)

    assert after.headers == {**before.headers, NOTED: NOTE}


@pytest.mark.parametrize("folded", ["{", "[]", "5"])
def test_folded_headers_that_others_wrote_are_left_alone(broker, folded):
    attributes = {
        "melange-message-id": text("id-1"),
        **{f"name-{number}": text(str(number)) for number in range(8)},
        "melange-headers": text(folded),
    }

    entry, _, _ = dead_lettered(broker, "{}", attributes)

    assert entry["MessageAttributes"] == attributes


@pytest.mark.parametrize(
    "older",
    [{NOTED: text("older")}, {"melange-headers": text(json.dumps({NOTED: "older", "empty": ""}))}],
)
def test_the_note_of_an_earlier_time_is_replaced(broker, older):
    _, _, after = dead_lettered(broker, "{}", {"melange-message-id": text("id-1"), **older})

    assert after.headers[NOTED] == NOTE


@pytest.mark.parametrize(("space", "left"), [(2_000, "whole"), (300, "short"), (40, "none"), (0, "bare")])
def test_a_note_without_space_is_shortened_then_left_out(broker, space, left):
    body = "x" * (LARGEST - space)

    entry, _, _ = dead_lettered(broker, body)

    attributes = entry["MessageAttributes"]
    assert entry["MessageBody"] == body
    assert ("melange-message-id" in attributes) is (left != "bare")
    assert (NOTED in attributes) is (left in {"whole", "short"})
    if left == "whole":
        assert attributes[NOTED] == text(NOTE)
    if left == "short":
        note = json.loads(attributes[NOTED]["StringValue"])
        assert (note["listener"], note["attempts"]) == ("bill", 5)
        assert len(note["reason"]) <= 60


def test_a_copy_that_is_refused_goes_bare(broker):
    broker.will_now_answer("SendMessage", *[sqs_error("InvalidParameterValue", "no")] * 3, SENT)

    entry, _, _ = dead_lettered(broker, "plain", {"weight": text("7", "Number")})

    assert entry["MessageAttributes"] == {"weight": text("7", "Number")}


def test_a_copy_that_is_refused_even_bare_is_an_error(broker):
    broker.will_now_answer("SendMessage", sqs_error("InvalidParameterValue", "no"))

    with pytest.raises(InvalidMessageError):
        dead_lettered(broker, "plain")


def test_what_is_not_the_messages_fault_is_raised_at_once(broker):
    broker.will_now_answer("SendMessage", sqs_error("AccessDenied", status=403))

    with pytest.raises(AccessDeniedError):
        dead_lettered(broker, "plain")

    assert len(broker.sent["SendMessage"]) == 1


def test_a_delivery_that_was_not_received_here_is_sent_from_what_it_holds(broker):
    delivery = Delivery(Message("id-1", "{}"), dead_letters_of(QUEUE), "handle", 1, 2_000.0)

    broker.will_answer("SendMessageBatch", batch_answer())
    broker.driver(InstantClock()).dead_letter(delivery, NOTE)

    (entry,) = broker.sent["SendMessageBatch"][0]["Entries"]
    assert entry["MessageAttributes"]["melange-message-id"] == text("id-1")
