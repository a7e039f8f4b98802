"""Dead letters on SQS: sent there as they were received with the reason, looked at, and sent on.

See ``melange.drivers.dead_letters``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from melange.drivers.aws import batches, operations
from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.operations import Entry, Parameters
from melange.drivers.aws.queues import SqsQueues
from melange.drivers.aws.wire import TRACE_ATTRIBUTE, Received
from melange.drivers.base import QueueDepth
from melange.drivers.dead_letters import (
    NO_NOTES,
    FoundDeadLetter,
    MoveTask,
    dead_letter_of,
    deduplication_id_of_retry,
)
from melange.drivers.sqs_rules import (
    ATTRIBUTE_TYPE,
    FOLDED_HEADERS_ATTRIBUTE,
    MAX_ATTRIBUTES,
    MAX_BATCH,
    MESSAGE_ID_ATTRIBUTE,
    OWN_ATTRIBUTES,
    PUBLISHED_AT_ATTRIBUTE,
)
from melange.errors import ConfigurationError, Failure
from melange.messages import DEAD_LETTER_HEADER, TRACE_HEADERS, Delivery, Queue

_SOURCE_ATTRIBUTE = "DeadLetterQueueSourceArn"
_WAIT_SECONDS = 1
"""A receive without a wait asks some of SQS's servers only, and may miss messages."""

_SHORT_TEXT_CHARACTERS = 60

MessageAttribute = dict[str, Any]
MessageAttributes = dict[str, MessageAttribute]


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
        urls = self._calls.listed(
            operations.LIST_SOURCE_QUEUES,
            dead_letter_queue.name,
            "queueUrls",
            QueueUrl=dead_letter_queue.address,
            MaxResults=1_000,  # without it SQS gives one page only
        )
        return {self._queues.name_of(url): url for url in urls}

    def browse(self, queue: Queue, *, visibility_timeout_seconds: int) -> list[FoundDeadLetter]:
        deliveries = batches.receive(
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
        return batches.send(
            self._calls,
            operations.SEND,
            target,
            deliveries,
            lambda delivery: entries[delivery.receipt_handle],
            size_of=lambda delivery: _size_of_entry(entries[delivery.receipt_handle]),
        )


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
    attributes = _with_identity(delivery, received, without_note(_attributes_of(received)))
    if len(attributes) > MAX_ATTRIBUTES:
        # Another publisher used all of them: SQS gives the message a new id.
        attributes = _attributes_of(received)
    elif note is not None:
        attributes = _with_fitting_note(received.raw["Body"], attributes, note, target)
    message = delivery.message
    entry: Entry = {
        "MessageBody": received.raw["Body"],
        "MessageAttributes": attributes,
        **_trace_of(received),
    }
    group_id = message.message_group_id or (message.message_id if target.is_fifo else None)
    if group_id is not None:
        entry["MessageGroupId"] = group_id
    if target.is_fifo:
        entry["MessageDeduplicationId"] = deduplication_id_of_retry(delivery)
    return entry


def _size_of_entry(entry: Entry) -> int:
    return _size_of(entry["MessageBody"], entry["MessageAttributes"])


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1_000, UTC)


def copies_of(delivery: Delivery, received: Received, target: Queue, note: str) -> Iterator[Parameters]:
    """Yield parameters of ``SendMessage``, and smaller ones in case they are refused.

    All have the body as received, envelope included, the attributes with their types, and the trace header. The
    first one has the whole note, the next a shorter one, then none; the last is exactly what was received.
    """
    body = received.raw["Body"]
    bare = _attributes_of(received)
    known = _with_identity(delivery, received, without_note(bare))
    for attributes in _with_shorter_notes(body, known, note, target):
        yield _copy(delivery, received, target, attributes)
    yield _copy(delivery, received, target, bare)


def _with_fitting_note(
    body: str, attributes: MessageAttributes, note: str, target: Queue
) -> MessageAttributes:
    """Return the attributes with the note, shortened or left out if the queue's limits leave no space."""
    return next(_with_shorter_notes(body, attributes, note, target), attributes)


def _with_shorter_notes(
    body: str, known: MessageAttributes, note: str, target: Queue
) -> Iterator[MessageAttributes]:
    for attributes in (_with_note(known, note), _with_note(known, _shortened(note)), known):
        if len(attributes) <= MAX_ATTRIBUTES and _size_of(body, attributes) <= target.max_message_bytes:
            yield attributes


def _attributes_of(received: Received) -> MessageAttributes:
    """Return the attributes of a received message, to be sent again with their types."""
    return {name: _sendable(value) for name, value in (received.raw.get("MessageAttributes") or {}).items()}


def _with_identity(
    delivery: Delivery, received: Received, attributes: MessageAttributes
) -> MessageAttributes:
    """Return the attributes with the id of the message and its time, which SQS would replace in a copy."""
    message = delivery.message
    known = dict(attributes)
    # An envelope has an id that stays.
    if MESSAGE_ID_ATTRIBUTE not in known and message.body == received.raw["Body"]:
        known[MESSAGE_ID_ATTRIBUTE] = _text(message.message_id)
    published_at = message.published_at
    if published_at and PUBLISHED_AT_ATTRIBUTE not in known and len(known) < MAX_ATTRIBUTES - 1:
        known[PUBLISHED_AT_ATTRIBUTE] = _text(published_at.isoformat())
    return known


def _trace_of(received: Received) -> Parameters:
    """Return the trace header as a parameter of a send, {} without one."""
    trace = (received.raw.get("Attributes") or {}).get(TRACE_ATTRIBUTE)
    return {"MessageSystemAttributes": {TRACE_ATTRIBUTE: _text(trace)}} if trace else {}


def without_note(attributes: MessageAttributes) -> MessageAttributes:
    """Return the attributes without the reason of an earlier dead letter."""
    kept = {name: value for name, value in attributes.items() if name != DEAD_LETTER_HEADER}
    folded = _folded_headers(kept)
    if folded and folded.pop(DEAD_LETTER_HEADER, None) is not None:
        del kept[FOLDED_HEADERS_ATTRIBUTE]
        return {**kept, **_fold(folded)} if folded else kept
    return kept


def _with_note(attributes: MessageAttributes, note: str) -> MessageAttributes:
    folded = _folded_headers(attributes)
    kept = {name: value for name, value in attributes.items() if name != FOLDED_HEADERS_ATTRIBUTE}
    if len(attributes) < MAX_ATTRIBUTES or MESSAGE_ID_ATTRIBUTE not in attributes or folded is None:
        return {**attributes, DEAD_LETTER_HEADER: _text(note)}
    # melange reads a folded header like any other: if all ten attributes are used, one is folded for the note.
    if len(kept) == MAX_ATTRIBUTES:
        name = next((name for name, value in kept.items() if _is_foldable(name, value)), None)
        if name is None:
            return {**attributes, DEAD_LETTER_HEADER: _text(note)}
        folded[name] = kept.pop(name)["StringValue"]
    return {**kept, **_fold({**folded, DEAD_LETTER_HEADER: note})}


def _is_foldable(name: str, attribute: MessageAttribute) -> bool:
    is_for_others = name in OWN_ATTRIBUTES or TRACE_HEADERS.fullmatch(name)
    return not is_for_others and attribute["DataType"] == ATTRIBUTE_TYPE


def _folded_headers(attributes: MessageAttributes) -> dict[str, Any] | None:
    """Return the headers in the attribute for folded ones, None if another program has written it."""
    try:
        folded = json.loads(attributes.get(FOLDED_HEADERS_ATTRIBUTE, {}).get("StringValue") or "{}")
    except (ValueError, RecursionError):
        return None
    return folded if isinstance(folded, dict) else None


def _fold(headers: dict[str, Any]) -> MessageAttributes:
    return {FOLDED_HEADERS_ATTRIBUTE: _text(json.dumps(headers, separators=(",", ":")))}


def _shortened(note: str) -> str:
    """Return the note with shortened texts and without lists."""
    try:
        fields = json.loads(note)
    except ValueError:
        return note
    if not isinstance(fields, dict):
        return note
    short = {
        name: value[:_SHORT_TEXT_CHARACTERS] if isinstance(value, str) else value
        for name, value in fields.items()
        if not isinstance(value, (list, dict))
    }
    return json.dumps(short, separators=(",", ":"))


def _copy(delivery: Delivery, received: Received, target: Queue, attributes: MessageAttributes) -> Parameters:
    twin = dead_letter_of(delivery, is_fifo=target.is_fifo)
    copy: Parameters = {"MessageBody": received.raw["Body"], "MessageAttributes": attributes}
    if twin.message_group_id is not None:
        copy["MessageGroupId"] = twin.message_group_id
    if target.is_fifo:
        copy["MessageDeduplicationId"] = twin.message_deduplication_id
    return copy | _trace_of(received)


def _sendable(attribute: Mapping[str, Any]) -> MessageAttribute:
    value = "BinaryValue" if attribute.get("StringValue") is None else "StringValue"
    return {"DataType": attribute.get("DataType", ATTRIBUTE_TYPE), value: attribute.get(value)}


def _text(value: str) -> MessageAttribute:
    return {"DataType": ATTRIBUTE_TYPE, "StringValue": value}


def _size_of(body: str, attributes: MessageAttributes) -> int:
    """Return the bytes that SQS counts."""
    return len(body.encode()) + sum(
        len(name.encode()) + len(attribute["DataType"].encode()) + _length(attribute)
        for name, attribute in attributes.items()
    )


def _length(attribute: MessageAttribute) -> int:
    value = attribute.get("StringValue")
    return len(value.encode()) if value is not None else len(attribute.get("BinaryValue") or b"")
