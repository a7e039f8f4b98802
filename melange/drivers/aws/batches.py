"""The calls that carry messages, up to ten at a time: sent with a result for each entry, received, settled."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import copy_context
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

DISTANT_SECONDS = 0.005
"""A call that takes longer has waited for the network, and others could have waited beside it."""

MOST_CALLS = 10
"""The most calls that one publish has open at a time."""

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
    """Send messages, or deliveries again, in batches; report each one that was not sent. Each alone must fit.

    If the first batch has waited for the network, several calls are open at a time, but not to a FIFO target. Stop if a later
    batch would break the order, or if the broker is unavailable: each further batch would wait through the same retries.

    Raises:
        MelangeError: the broker refused the first call as a whole, and nothing has happened.
    """
    if len(items) <= 1:
        return _run_batch(calls, operation, target, items, entry_of) if items else []
    batches = list(_split_by_size(items, target.max_message_bytes, size_of))
    started = calls.clock.monotonic()
    failed = _run_batch(calls, operation, target, batches[0], entry_of)
    if len(batches) == 1:
        return failed
    is_distant = calls.clock.monotonic() - started >= DISTANT_SECONDS
    outcomes: dict[int, list[Failure[ItemT]]] = {0: failed}
    left = deque([] if _stops_others(failed, target) else range(1, len(batches)))

    def send_on() -> None:
        while left:
            try:
                index = left.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                failed = _run_batch(calls, operation, target, batches[index], entry_of)
            except MelangeError as error:
                failed = [Failure(item, error) for item in batches[index]]
            outcomes[index] = failed
            if _stops_others(failed, target):
                left.clear()

    if is_distant and not target.is_fifo and len(left) > 1:
        _run_side_by_side(send_on, min(MOST_CALLS, len(left)), at_the_end=left.clear)
    else:
        send_on()
    return _in_order(batches, outcomes)


def _stops_others(failed: Sequence[Failure[ItemT]], target: Topic | Queue) -> bool:
    return bool(failed) and (
        target.is_fifo or any(isinstance(one.error, DriverConnectionError) for one in failed)
    )


def _run_side_by_side(run: Callable[[], None], most: int, *, at_the_end: Callable[[], None]) -> None:
    """Run the function in this thread and ``most - 1`` others, until all have returned."""
    errors: list[BaseException] = []

    def run_beside() -> None:
        try:
            run()
        except BaseException as error:
            errors.append(error)

    threads: list[threading.Thread] = []
    try:
        with suppress(RuntimeError):  # the system cannot start another thread
            for _ in range(most - 1):
                # A daemon, so that calls without an answer do not keep a process that ends or is interrupted.
                thread = threading.Thread(
                    target=copy_context().run, args=(run_beside,), name="melange-send", daemon=True
                )
                thread.start()
                threads.append(thread)
        run()
    finally:
        at_the_end()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _in_order(
    batches: Sequence[Sequence[ItemT]], outcomes: dict[int, list[Failure[ItemT]]]
) -> list[Failure[ItemT]]:
    """Return all failures in the order of the items; those of a batch that was not sent are failures too."""
    first = next((failed[0].error for _, failed in sorted(outcomes.items()) if failed), None)
    not_sent = DriverError(f"not sent, because another message of the call failed: {first}")
    return [
        failure
        for index, batch in enumerate(batches)
        for failure in outcomes.get(index, [Failure(item, not_sent) for item in batch])
    ]


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
