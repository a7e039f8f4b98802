"""Administration of dead letters on SQS; see ``melange.drivers.dead_letters``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from melange.drivers.aws import operations
from melange.drivers.aws.batches import run_batch
from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.dead_letters import (
    attributes_of,
    size_of,
    trace_of,
    with_fitting_note,
    with_identity,
    without_note,
)
from melange.drivers.aws.operations import Entry, Parameters
from melange.drivers.aws.queues import SqsQueues
from melange.drivers.aws.receiving import receive_from
from melange.drivers.aws.wire import Received
from melange.drivers.base import QueueDepth
from melange.drivers.dead_letters import NO_NOTES, FoundDeadLetter, MoveTask, deduplication_id_of_retry
from melange.drivers.sqs_rules import MAX_ATTRIBUTES, MAX_BATCH
from melange.errors import ConfigurationError, Failure, MelangeError
from melange.messages import Delivery, Queue

_SOURCE_ATTRIBUTE = "DeadLetterQueueSourceArn"
_WAIT_SECONDS = 1
"""A receive without a wait asks some of SQS's servers only, and may miss messages."""


class SqsDeadLetters:
    """The dead letters of SQS queues; see ``DeadLetterAccess``."""

    counts_are_estimates = True

    def __init__(self, calls: BrokerCalls, queues: SqsQueues) -> None:
        self._calls = calls
        self._queues = queues
        self.moves = SqsMoves(calls, queues)

    def measure(self, queue: Queue) -> QueueDepth:
        return self._queues.measure(queue)

    def sources(self, dead_letter_queue: Queue) -> dict[str, str]:
        urls: list[str] = []
        page: dict[str, Any] = {}
        while True:
            answer = self._calls(
                operations.LIST_SOURCE_QUEUES,
                dead_letter_queue.name,
                QueueUrl=dead_letter_queue.address,
                **page,
            )
            urls += answer.get("queueUrls") or ()
            if not answer.get("NextToken"):
                return {self._queues.name_of(url): url for url in urls}
            page = {"NextToken": answer["NextToken"], "MaxResults": 1_000}

    def browse(self, queue: Queue, *, visibility_timeout_seconds: int) -> list[FoundDeadLetter]:
        deliveries = receive_from(
            self._calls,
            queue,
            MAX_BATCH,
            _WAIT_SECONDS,
            visibility_timeout_seconds=visibility_timeout_seconds,
            more_attributes=(_SOURCE_ATTRIBUTE,),
        )
        found = []
        for delivery in deliveries:
            assert isinstance(delivery.received, Received)
            system = delivery.received.raw.get("Attributes") or {}
            source, sent = system.get(_SOURCE_ATTRIBUTE), str(system.get("SentTimestamp") or "")
            found.append(
                FoundDeadLetter(
                    delivery,
                    sent_at=_time(int(sent)) if sent.isdecimal() else None,
                    was_moved=bool(source),
                    source_name=self._queues.name_of(source) if source else None,
                )
            )
        return found

    def resend(
        self, deliveries: Sequence[Delivery], target: Queue, *, notes: Mapping[str, str] = NO_NOTES
    ) -> list[Failure[Delivery]]:
        """Send the messages on; see ``DeadLetterAccess.resend``.

        The body is sent as received, with its SNS envelope if it had one. Attributes keep their types.
        """
        entries = {
            delivery.receipt_handle: _entry_of(delivery, target, notes.get(delivery.receipt_handle))
            for delivery in deliveries
        }
        failures: list[Failure[Delivery]] = []
        for index, batch in enumerate(_batches(deliveries, entries, target.max_message_bytes)):
            try:
                failures += run_batch(
                    self._calls,
                    operations.SEND,
                    target,
                    batch,
                    lambda delivery: entries[delivery.receipt_handle],
                )
            except MelangeError as error:
                if index == 0:
                    raise
                failures += [Failure(delivery, error) for delivery in batch]
        return failures


class SqsMoves:
    """Message move tasks of SQS; see ``MessageMoves``."""

    def __init__(self, calls: BrokerCalls, queues: SqsQueues) -> None:
        self._calls = calls
        self._queues = queues

    def start(self, queue: Queue, destination: Queue, *, messages_per_second: int | None = None) -> None:
        """Begin to move all messages; see ``MessageMoves.start``. SQS moves at most 500 messages a second.

        The destination is always given: SQS knows the source only of messages that it moved itself.
        """
        rate: Parameters = (
            {} if messages_per_second is None else {"MaxNumberOfMessagesPerSecond": messages_per_second}
        )
        self._calls(
            operations.START_MOVE,
            queue.name,
            SourceArn=self._queues.arn_of(queue),
            DestinationArn=self._queues.arn_of(destination),
            **rate,
        )

    def recent(self, queue: Queue) -> list[MoveTask]:
        return [self._move_task(raw) for raw in self._tasks(queue)]

    def cancel(self, queue: Queue) -> int | None:
        for raw in self._tasks(queue):
            if raw.get("Status") == "RUNNING" and raw.get("TaskHandle"):
                answer = self._calls(operations.CANCEL_MOVE, queue.name, TaskHandle=raw["TaskHandle"])
                return int(answer.get("ApproximateNumberOfMessagesMoved") or 0)
        return None

    def _tasks(self, queue: Queue) -> list[Mapping[str, Any]]:
        answer = self._calls(
            operations.LIST_MOVES, queue.name, SourceArn=self._queues.arn_of(queue), MaxResults=10
        )
        return answer.get("Results") or []

    def _move_task(self, raw: Mapping[str, Any]) -> MoveTask:
        destination, started = raw.get("DestinationArn"), raw.get("StartedTimestamp")
        return MoveTask(
            status=str(raw.get("Status") or "unknown").lower(),
            destination_name=self._queues.name_of(destination) if destination else None,
            moved=int(raw.get("ApproximateNumberOfMessagesMoved") or 0),
            to_move=raw.get("ApproximateNumberOfMessagesToMove"),
            messages_per_second=raw.get("MaxNumberOfMessagesPerSecond"),
            started_at=_time(int(started)) if started else None,
            failure=raw.get("FailureReason"),
        )


def _entry_of(delivery: Delivery, target: Queue, note: str | None) -> Entry:
    received = delivery.received
    if not isinstance(received, Received):
        raise ConfigurationError("only deliveries that browse() returned can be sent on")
    attributes = with_identity(delivery, received, without_note(attributes_of(received)))
    if (
        len(attributes) > MAX_ATTRIBUTES
    ):  # of another publisher, which uses all of them: SQS gives it a new id
        attributes = attributes_of(received)
    elif note is not None:
        attributes = with_fitting_note(received.raw["Body"], attributes, note, target)
    message = delivery.message
    entry: Entry = {
        "MessageBody": received.raw["Body"],
        "MessageAttributes": attributes,
        **trace_of(received),
    }
    group_id = message.message_group_id or (message.message_id if target.is_fifo else None)
    if group_id is not None:
        entry["MessageGroupId"] = group_id
    if target.is_fifo:
        entry["MessageDeduplicationId"] = deduplication_id_of_retry(delivery)
    return entry


def _batches(
    deliveries: Sequence[Delivery], entries: Mapping[str, Entry], max_bytes: int
) -> Iterator[list[Delivery]]:
    batch: list[Delivery] = []
    size = 0
    for delivery in deliveries:
        entry = entries[delivery.receipt_handle]
        added = size_of(entry["MessageBody"], entry["MessageAttributes"])
        if batch and (len(batch) == MAX_BATCH or size + added > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(delivery)
        size += added
    if batch:
        yield batch


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1_000, UTC)
