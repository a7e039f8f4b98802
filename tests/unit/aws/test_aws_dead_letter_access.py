"""Administration of dead letters on SQS: what is sent and what is read."""

import json
from dataclasses import replace
from datetime import UTC, datetime

from aws_answers import batch_answer, sqs_answer
from melange.drivers.dead_letters import MoveTask
from melange.messages import Queue

ARN = "arn:aws:sqs:us-east-1:123456789012:"
URL = "https://sqs.us-east-1.amazonaws.com/123456789012/"
DEAD_LETTERS = Queue("stock-dlq", f"{URL}stock-dlq")
STOCK = Queue("stock", f"{URL}stock", dead_letter_queue=DEAD_LETTERS)
NOTE = {"DataType": "String", "StringValue": '{"reason":"no"}'}


def received(body="{}", attributes=None, **system):
    return sqs_answer(
        Messages=[
            {
                "MessageId": "sqs-id",
                "ReceiptHandle": "handle",
                "Body": body,
                "Attributes": {"ApproximateReceiveCount": "1", **system},
                "MessageAttributes": attributes or {},
            }
        ]
    )


def resent(broker, *arguments, target=STOCK, note=None, **system):
    broker.will_answer("ReceiveMessage", received(*arguments, **system))
    broker.will_answer("SendMessageBatch", batch_answer())
    access = broker.driver().dead_letter_access
    (found,) = access.browse(DEAD_LETTERS, visibility_timeout_seconds=60)
    notes = {} if note is None else {found.delivery.receipt_handle: note}
    assert access.resend([found.delivery], target, notes=notes) == []
    (entry,) = broker.sent["SendMessageBatch"][-1]["Entries"]
    return entry


def test_attributes_keep_their_types_and_only_the_note_is_taken_off(broker) -> None:
    attributes = {
        "weight": {"DataType": "Number", "StringValue": "7"},
        "melange-dead-letter": NOTE,
        "melange-message-id": {"DataType": "String", "StringValue": "m-1"},
    }

    entry = resent(broker, "{}", attributes, AWSTraceHeader="Root=1-5759e988-bd862e3fe1be46a994272793")

    sent = entry["MessageAttributes"]
    assert sent["weight"] == {"DataType": "Number", "StringValue": "7"}
    assert sent["melange-message-id"]["StringValue"] == "m-1"
    assert "melange-dead-letter" not in sent
    assert entry["MessageSystemAttributes"]["AWSTraceHeader"]["StringValue"].startswith("Root=1-")


def test_a_note_among_folded_headers_is_taken_off(broker) -> None:
    folded = {"tenant": "north", "melange-dead-letter": "{}"}
    attributes = {
        "melange-headers": {"DataType": "String", "StringValue": json.dumps(folded)},
        "melange-message-id": {"DataType": "String", "StringValue": "m-1"},
    }

    entry = resent(broker, "{}", attributes)

    assert json.loads(entry["MessageAttributes"]["melange-headers"]["StringValue"]) == {"tenant": "north"}


def test_an_envelope_of_sns_is_sent_as_it_was(broker) -> None:
    envelope = json.dumps(
        {"Type": "Notification", "TopicArn": "arn:aws:sns:x", "MessageId": "sns-id", "Message": "{}"}
    )

    entry = resent(broker, envelope, {"melange-dead-letter": NOTE})

    assert entry["MessageBody"] == envelope
    assert "melange-message-id" not in entry["MessageAttributes"]


def test_a_new_note_replaces_the_old_one(broker) -> None:
    entry = resent(broker, "{}", {"melange-dead-letter": NOTE}, note='{"reason":"new"}')

    assert entry["MessageAttributes"]["melange-dead-letter"]["StringValue"] == '{"reason":"new"}'


def test_a_new_note_that_has_no_space_is_left_out(broker) -> None:
    target = replace(STOCK, max_message_bytes=200)

    entry = resent(broker, "x" * 150, note='{"reason":"new"}', target=target)

    assert "melange-dead-letter" not in entry["MessageAttributes"]


def test_a_message_of_another_program_keeps_the_id_that_sqs_gave_it(broker) -> None:
    entry = resent(broker, "<order/>")

    assert entry["MessageAttributes"]["melange-message-id"]["StringValue"] == "sqs-id"


def test_a_fifo_queue_keeps_the_group_and_gets_the_same_deduplication_id_again(broker) -> None:
    target = Queue("stock.fifo", f"{URL}stock.fifo", is_fifo=True)
    entries = [resent(broker, "{}", target=target, MessageGroupId="north") for _ in range(2)]

    assert [entry["MessageGroupId"] for entry in entries] == ["north", "north"]
    assert entries[0]["MessageDeduplicationId"] == entries[1]["MessageDeduplicationId"]


def test_nothing_is_sent_to_a_fifo_queue_after_a_dead_letter_that_failed(broker) -> None:
    broker.will_answer("ReceiveMessage", received(MessageGroupId="north"))
    broker.will_answer(
        "SendMessageBatch",
        batch_answer({"0": {"Code": "InvalidMessageContents", "SenderFault": True}}),
        batch_answer(),
    )
    access = broker.driver().dead_letter_access
    ((found,), (later,)) = (access.browse(DEAD_LETTERS, visibility_timeout_seconds=60) for _ in range(2))
    # One fits into a batch, two do not.
    target = Queue("stock.fifo", f"{URL}stock.fifo", is_fifo=True, max_message_bytes=50)

    failures = access.resend([found.delivery, later.delivery._replace(receipt_handle="later")], target)

    assert [failure.item.receipt_handle for failure in failures] == ["handle", "later"]
    assert len(broker.sent["SendMessageBatch"]) == 1


def test_what_sqs_moved_names_its_source_and_its_time(broker) -> None:
    broker.will_answer(
        "ReceiveMessage",
        received(DeadLetterQueueSourceArn=f"{ARN}stock", SentTimestamp="1767268800000"),
    )

    (found,) = broker.driver().dead_letter_access.browse(DEAD_LETTERS, visibility_timeout_seconds=60)

    assert (found.was_moved, found.source_name) == (True, "stock")
    assert found.sent_at == datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_sources_are_read_page_by_page(broker) -> None:
    broker.will_answer(
        "ListDeadLetterSourceQueues",
        sqs_answer(queueUrls=[f"{URL}stock"], NextToken="more"),
        sqs_answer(queueUrls=[f"{URL}audit"]),
    )

    sources = broker.driver().dead_letter_access.sources(DEAD_LETTERS)

    assert sources == {"stock": f"{URL}stock", "audit": f"{URL}audit"}
    first, second = broker.sent["ListDeadLetterSourceQueues"]
    assert first["MaxResults"]  # SQS gives a token for more only to callers that set it
    assert second["NextToken"] == "more"


def test_a_move_always_names_its_destination(broker) -> None:
    broker.will_answer(
        "GetQueueAttributes",
        sqs_answer(Attributes={"QueueArn": f"{ARN}stock-dlq"}),
        sqs_answer(Attributes={"QueueArn": f"{ARN}stock"}),
    )
    broker.will_answer("StartMessageMoveTask", sqs_answer(TaskHandle="task"))

    broker.driver().dead_letter_access.moves.start(DEAD_LETTERS, STOCK, messages_per_second=50)

    assert broker.sent["StartMessageMoveTask"] == [
        {
            "SourceArn": f"{ARN}stock-dlq",
            "DestinationArn": f"{ARN}stock",
            "MaxNumberOfMessagesPerSecond": 50,
        }
    ]


TASK = {
    "TaskHandle": "task",
    "Status": "RUNNING",
    "SourceArn": f"{ARN}stock-dlq",
    "DestinationArn": f"{ARN}stock",
    "ApproximateNumberOfMessagesMoved": 7,
    "ApproximateNumberOfMessagesToMove": 9,
    "StartedTimestamp": 1767268800000,
}


def test_moves_are_listed_and_the_running_one_is_cancelled(broker) -> None:
    broker.will_answer("GetQueueAttributes", sqs_answer(Attributes={"QueueArn": f"{ARN}stock-dlq"}))
    broker.will_answer("ListMessageMoveTasks", sqs_answer(Results=[TASK]))
    broker.will_answer("CancelMessageMoveTask", sqs_answer(ApproximateNumberOfMessagesMoved=8))
    moves = broker.driver().dead_letter_access.moves

    (task,) = moves.recent(DEAD_LETTERS)

    assert task == MoveTask("running", "stock", 7, 9, started_at=datetime(2026, 1, 1, 12, tzinfo=UTC))
    assert moves.cancel(DEAD_LETTERS) == 8
    assert broker.sent["CancelMessageMoveTask"] == [{"TaskHandle": "task"}]


def test_nothing_is_cancelled_when_nothing_runs(broker) -> None:
    broker.will_answer("GetQueueAttributes", sqs_answer(Attributes={"QueueArn": f"{ARN}stock-dlq"}))
    broker.will_answer("ListMessageMoveTasks", sqs_answer(Results=[{**TASK, "Status": "COMPLETED"}]))

    assert broker.driver().dead_letter_access.moves.cancel(DEAD_LETTERS) is None
