"""The calls that carry messages, up to ten at a time: sent with a result for each entry, received, settled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.errors import error_for_entry, is_transient, lease_lost
from melange.drivers.aws.operations import (
    RECEIVE,
    RECEIVE_AT_ONCE,
    Answer,
    Entry,
    Operation,
    Parameters,
    UnreadableAnswer,
)
from melange.drivers.aws.wire import TRACE_ATTRIBUTE, deliveries_from
from melange.drivers.sqs_rules import MAX_BATCH, message_size
from melange.errors import DriverConnectionError, DriverError, Failure, ItemT, MelangeError
from melange.messages import Delivery, Message, Queue, Topic, new_uuid

_NOT_MENTIONED: Entry = {"Code": "InternalError", "Message": "the answer does not mention it"}

EntryOf = Callable[[ItemT], Entry]
"""Makes a new entry, which gets its ``Id`` here."""

_IDS = tuple(map(str, range(MAX_BATCH)))

_SMALL_MESSAGE_CHARACTERS = 2_000
"""Ten bodies of this length fit any batch, in four-byte characters and with melange's own attributes."""

_SYSTEM_ATTRIBUTES = (
    "ApproximateReceiveCount",
    "MessageDeduplicationId",
    "MessageGroupId",
    "SentTimestamp",
    TRACE_ATTRIBUTE,
)


def send(
    calls: BrokerCalls,
    operation: Operation,
    target: Topic | Queue,
    items: Sequence[ItemT],
    entry_of: EntryOf[ItemT],
    *,
    size_of: Callable[[ItemT], int],
) -> list[Failure[ItemT]]:
    """Send messages, or deliveries again, batch by batch; report each one that was not sent. Each alone must fit.

    Stop if a later batch would break the order, or if the broker is unavailable: each further batch would wait
    through the same retries.

    Raises:
        MelangeError: the broker refused the first call as a whole, and nothing has happened.
    """
    if len(items) == 1:
        return _run_batch(calls, operation, target, items, entry_of)
    failures: list[Failure[ItemT]] = []
    batches = list(_split_by_size(items, target.max_message_bytes, size_of))
    for index, batch in enumerate(batches):
        try:
            failed = _run_batch(calls, operation, target, batch, entry_of)
        except MelangeError as error:
            if index == 0:
                raise
            failed = [Failure(item, error) for item in batch]
        failures += failed
        if failed and (target.is_fifo or any(isinstance(f.error, DriverConnectionError) for f in failed)):
            not_sent = DriverError(
                f"not sent, because an earlier message of the call failed: {failed[0].error}"
            )
            failures += [Failure(item, not_sent) for rest in batches[index + 1 :] for item in rest]
            break
    return failures


def size_at_most(message: Message) -> int:
    """Return a number of bytes that the message does not exceed, as the broker counts them."""
    # An exact count costs more than the rest of splitting, so small messages are estimated.
    if message.headers or len(message.body) > _SMALL_MESSAGE_CHARACTERS:
        return message_size(message)
    return 4 * len(message.body) + 4_096


def _split_by_size(
    items: Sequence[ItemT], max_bytes: int, size_of: Callable[[ItemT], int]
) -> Iterator[Sequence[ItemT]]:
    start = size = 0
    for index, item in enumerate(items):
        added = size_of(item)
        if index > start and (index - start == MAX_BATCH or size + added > max_bytes):
            yield items[start:index]
            start, size = index, 0
        size += added
    if start < len(items):
        yield items[start:]


def receive(
    calls: BrokerCalls,
    queue: Queue,
    limit: int,
    wait_seconds: int,
    *,
    visibility_timeout_seconds: int,
    more_attributes: tuple[str, ...] = (),
) -> list[Delivery]:
    """Return at most ``limit`` deliveries. Blocks for ``wait_seconds`` at most, and the time of the call.

    ``more_attributes`` are system attributes for other readers of ``Delivery.received``.

    Raises:
        MelangeError: see ``BrokerCalls``.
    """
    # SQS repeats a lost answer for a request with the same id.
    attempt: dict[str, Any] = {"ReceiveRequestAttemptId": new_uuid()} if queue.is_fifo else {}
    asked_at = calls.clock.monotonic()
    deliveries: list[Delivery] = calls(
        RECEIVE if wait_seconds else RECEIVE_AT_ONCE,
        queue.name,
        read=partial(
            deliveries_from,
            queue=queue,
            asked_at=asked_at,
            visibility_timeout_seconds=visibility_timeout_seconds,
        ),
        QueueUrl=queue.address,
        MaxNumberOfMessages=min(limit, MAX_BATCH),
        WaitTimeSeconds=wait_seconds,
        VisibilityTimeout=visibility_timeout_seconds,
        MessageAttributeNames=("All",),
        MessageSystemAttributeNames=_SYSTEM_ATTRIBUTES + more_attributes,
        **attempt,
    )
    return deliveries


def settle(
    calls: BrokerCalls, operation: Operation, deliveries: Sequence[Delivery], entry_of: EntryOf[Delivery]
) -> list[Failure[Delivery]]:
    """Settle deliveries in tens, per queue. A delivery past its deadline is reported and not settled."""
    failures: list[Failure[Delivery]] = []
    for batch in _tens_by_queue(deliveries):
        # Checked before each call: the previous one may have taken long. A standard queue takes a late
        # handle silently, and would remove a message that another receiver is working on.
        now = calls.clock.monotonic()
        held = [delivery for delivery in batch if now < delivery.deadline]
        if len(held) < len(batch):
            failures += [Failure(d, lease_lost(d.queue.name)) for d in batch if now >= d.deadline]
        if held:
            try:
                failures += _run_batch(calls, operation, held[0].queue, held, entry_of)
            except MelangeError as error:
                failures += [Failure(delivery, error) for delivery in held]
    return failures


def _run_batch(
    calls: BrokerCalls,
    operation: Operation,
    target: Topic | Queue,
    items: Sequence[ItemT],
    entry_of: EntryOf[ItemT],
) -> list[Failure[ItemT]]:
    """Send one batch, retry entries with temporary failures, and return the entries that failed.

    Raises:
        MelangeError: the broker refused the call as a whole, and nothing has happened.
    """
    started = calls.clock.monotonic()
    pending = dict(zip(_IDS, items, strict=False))
    entries = list(map(entry_of, items))
    for entry_id, entry in zip(_IDS, entries, strict=False):
        entry["Id"] = entry_id
    failures: list[Failure[ItemT]] = []
    for attempt in range(1, calls.attempts + 1):
        parameters: Parameters = {operation.target: target.address, operation.entries: entries}
        try:
            answered = calls(operation, target.name, started=started, read=_outcomes, **parameters)
        except MelangeError as error:
            if attempt == 1 and not isinstance(error, DriverConnectionError):
                raise
            return failures + [Failure(item, error) for item in pending.values()]
        if answered.keys() == pending.keys() and not any(answered.values()):
            return failures
        # An entry that the answer does not mention has failed too.
        failed = {
            entry_id: entry for entry_id in pending if (entry := answered.get(entry_id, _NOT_MENTIONED))
        }
        again = {entry_id for entry_id, entry in failed.items() if is_transient(entry)}
        if again and not calls.may_retry(attempt, started):
            again = set()
        failures += [
            Failure(pending[entry_id], error_for_entry(entry, operation.permission, target.name))
            for entry_id, entry in failed.items()
            if entry_id not in again
        ]
        pending = {entry_id: item for entry_id, item in pending.items() if entry_id in again}
        entries = [entry for entry in entries if entry["Id"] in again]
        if not pending:
            return failures
    return failures


def _outcomes(answer: Answer) -> dict[str, Entry | None]:
    """Return the failure, or None, of each entry in the answer."""
    try:
        entries: dict[str, Entry | None] = {}
        for entry in answer.get("Successful") or ():
            entries[entry["Id"]] = None
        for entry in answer.get("Failed") or ():
            entries[entry["Id"]] = entry
        return entries
    except (TypeError, LookupError, AttributeError) as error:
        raise UnreadableAnswer("it does not say what became of the entries") from error


def _tens_by_queue(deliveries: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
    by_queue: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        by_queue.setdefault(delivery.queue.address, []).append(delivery)
    for of_queue in by_queue.values():
        for start in range(0, len(of_queue), MAX_BATCH):
            yield of_queue[start : start + MAX_BATCH]
