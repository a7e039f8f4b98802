"""Acknowledging and deferring: in tens, per queue, never for a delivery whose time has run out."""

# MERGED DOCS: Batches of ten: cutting them, sending them, and what becomes of the entries that failed. | Publishing and sending: checked as a whole first, then sent batch by batch.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from melange.clock import Clock
from melange.drivers.aws.clients import MAX_ATTEMPTS, Answer, BrokerCalls, Clients
from melange.drivers.aws.errors import error_for_sent_entry, error_for_settled_entry, is_transient, lease_lost
from melange.drivers.aws.wire import Entry, publish_entry, send_entry
from melange.drivers.sqs_rules import (
    MAX_BATCH,
    MAX_DELAY_SECONDS,
    check_message,
    check_whole_seconds,
    message_size,
)
from melange.errors import (
    DriverConnectionError,
    DriverError,
    Failure,
    InvalidMessageError,
    ItemT,
    MelangeError,
)
from melange.messages import Delivery, Message, Queue, Topic

_SMALL_MESSAGE_CHARACTERS = 2_000
"""Ten bodies of this length, in four-byte characters and with melange's own attributes, fit any batch."""


def split_by_size(messages: Sequence[Message], max_bytes: int) -> Iterator[Sequence[Message]]:
    """Cut messages into batches of at most ten and, summed, ``max_bytes``; each alone fits."""
    start = size = 0
    for index, message in enumerate(messages):
        added = _size_at_most(message)
        if index > start and (index - start == MAX_BATCH or size + added > max_bytes):
            yield messages[start:index]
            start, size = index, 0
        size += added
    if start < len(messages):
        yield messages[start:]


def run_batch(
    items: Sequence[ItemT],
    entry_of: Callable[[ItemT], Entry],
    call: Callable[[list[Entry]], Answer],
    error_of: Callable[[dict[str, Any]], MelangeError],
    pause: Callable[[int], None],
) -> list[Failure[ItemT]]:
    """Send one batch, and again what failed in passing; return what failed in the end.

    Raises:
        MelangeError: the broker refused the call as a whole, and nothing has happened.
    """
    pending = {str(index): item for index, item in enumerate(items)}
    entries = {entry_id: {"Id": entry_id, **entry_of(item)} for entry_id, item in pending.items()}
    failures: list[Failure[ItemT]] = []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            answer = call([entries[entry_id] for entry_id in pending])
        except MelangeError as error:
            if attempt == 1 and not isinstance(error, DriverConnectionError):
                raise
            return failures + [Failure(item, error) for item in pending.values()]
        failed = _failed_entries(answer, pending)
        if not failed:
            return failures
        again = {}
        for entry_id, failed_entry in failed.items():
            if attempt < MAX_ATTEMPTS and is_transient(failed_entry):
                again[entry_id] = pending[entry_id]
            else:
                failures.append(Failure(pending[entry_id], error_of(failed_entry)))
        pending = again
        if not pending:
            return failures
        pause(attempt)
    return failures


def _failed_entries(answer: Answer, pending: dict[str, ItemT]) -> dict[str, dict[str, Any]]:
    """Return the failed entries by id; an entry that the answer does not mention has failed too."""
    failed = {entry["Id"]: entry for entry in answer.get("Failed", ()) if entry.get("Id") in pending}
    successful = {entry.get("Id") for entry in answer.get("Successful", ())}
    for entry_id in pending:
        if entry_id not in successful and entry_id not in failed:
            failed[entry_id] = {"Id": entry_id, "Code": "InternalError", "Message": "missing from the answer"}
    return failed


def _size_at_most(message: Message) -> int:
    # Counting bytes exactly costs more than the rest of cutting: small messages are estimated.
    if message.headers or len(message.body) > _SMALL_MESSAGE_CHARACTERS:
        return message_size(message)
    return 4 * len(message.body) + 4_096


class Sender:
    """Hands messages to topics and queues. Thread-safe."""

    def __init__(self, calls: BrokerCalls, clients: Clients) -> None:
        self._calls = calls
        self._clients = clients

    def publish(
        self, topic: Topic, messages: Sequence[Message], *, content_based_deduplication: bool
    ) -> list[Failure[Message]]:
        """See ``MessagingDriver.publish``."""

        def call(entries: list[Entry]) -> Answer:
            return self._calls(
                self._clients.sns.publish_batch,
                "sns:Publish",
                topic.name,
                refusal=InvalidMessageError,
                TopicArn=topic.address,
                PublishBatchRequestEntries=entries,
            )

        self._check(topic, messages, content_based_deduplication)
        return self._send_all(topic, messages, publish_entry, call, "sns:Publish")

    def send(
        self,
        queue: Queue,
        messages: Sequence[Message],
        delay_seconds: int,
        *,
        content_based_deduplication: bool,
    ) -> list[Failure[Message]]:
        """See ``MessagingDriver.send``."""

        def call(entries: list[Entry]) -> Answer:
            return self._calls(
                self._clients.sqs.send_message_batch,
                "sqs:SendMessage",
                queue.name,
                refusal=InvalidMessageError,
                QueueUrl=queue.address,
                Entries=entries,
            )

        def entry_of(message: Message) -> Entry:
            return send_entry(message, delay_seconds)

        check_whole_seconds("delay_seconds", delay_seconds, 0, MAX_DELAY_SECONDS)
        if delay_seconds and queue.is_fifo:
            raise InvalidMessageError(f"queue {queue.name!r} is FIFO and knows no delay per message")
        self._check(queue, messages, content_based_deduplication)
        return self._send_all(queue, messages, entry_of, call, "sqs:SendMessage")

    def _check(self, target: Topic | Queue, messages: Sequence[Message], content_based: bool) -> None:
        self._calls.check_open()
        for message in messages:
            check_message(
                message,
                max_bytes=target.max_message_bytes,
                is_fifo=target.is_fifo,
                content_based_deduplication=content_based,
            )

    def _send_all(
        self,
        target: Topic | Queue,
        messages: Sequence[Message],
        entry_of: Callable[[Message], Entry],
        call: Callable[[list[Entry]], Answer],
        action: str,
    ) -> list[Failure[Message]]:
        def error_of(entry: Entry) -> MelangeError:
            return error_for_sent_entry(entry, action, target.name)

        def run(batch: Sequence[Message]) -> list[Failure[Message]]:
            return run_batch(batch, entry_of, call, error_of, self._calls.pause)

        batches = list(split_by_size(messages, target.max_message_bytes))
        return run_in_turn(batches, run, in_order=target.is_fifo)


def run_in_turn(
    batches: Sequence[Sequence[Message]],
    run: Callable[[Sequence[Message]], list[Failure[Message]]],
    *,
    in_order: bool,
) -> list[Failure[Message]]:
    """Send batch after batch; what could not be sent is reported, never passed over.

    Stops where going on would break the order (``in_order``), or where the broker is out of reach: each
    further batch would wait through the same retries in vain.

    Raises:
        MelangeError: the broker refused the first call as a whole, and nothing has happened.
    """
    failures: list[Failure[Message]] = []
    for index, batch in enumerate(batches):
        try:
            failed = run(batch)
        except MelangeError as error:
            if index == 0:
                raise
            failed = [Failure(message, error) for message in batch]
        failures += failed
        if failed and (in_order or any(isinstance(f.error, DriverConnectionError) for f in failed)):
            not_sent = DriverError(
                f"not sent, because an earlier message of the call failed: {failed[0].error}"
            )
            failures += [Failure(message, not_sent) for rest in batches[index + 1 :] for message in rest]
            break
    return failures


class Settler:
    """Settles deliveries. Thread-safe."""

    def __init__(self, calls: BrokerCalls, clients: Clients, clock: Clock) -> None:
        self._calls = calls
        self._clients = clients
        self._clock = clock

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        """See ``MessagingDriver.acknowledge``."""
        return self._settle(deliveries, self._clients.sqs.delete_message_batch, "sqs:DeleteMessage", {})

    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        """See ``MessagingDriver.defer``."""
        return self._settle(
            deliveries,
            self._clients.sqs.change_message_visibility_batch,
            "sqs:ChangeMessageVisibility",
            {"VisibilityTimeout": seconds},
        )

    def _settle(
        self, deliveries: Sequence[Delivery], method: Callable[..., Answer], action: str, fields: Entry
    ) -> list[Failure[Delivery]]:
        self._calls.check_open()
        failures: list[Failure[Delivery]] = []
        for batch in _tens_by_queue(deliveries):
            # Asked again for each call: the one before may have taken long. A standard queue takes a
            # late handle without a word, and would so remove what somebody else is working on.
            now = self._clock.monotonic()
            held = [delivery for delivery in batch if now < delivery.deadline]
            failures += [
                Failure(delivery, lease_lost(delivery.queue.name))
                for delivery in batch
                if now >= delivery.deadline
            ]
            if held:
                failures += self._settle_batch(held, method, action, fields)
        return failures

    def _settle_batch(
        self, deliveries: Sequence[Delivery], method: Callable[..., Answer], action: str, fields: Entry
    ) -> list[Failure[Delivery]]:
        queue = deliveries[0].queue

        def entry_of(delivery: Delivery) -> Entry:
            return {"ReceiptHandle": delivery.receipt_handle, **fields}

        def call(entries: list[Entry]) -> Answer:
            return self._calls(method, action, queue.name, QueueUrl=queue.address, Entries=entries)

        def error_of(entry: Entry) -> MelangeError:
            return error_for_settled_entry(entry, action, queue.name)

        try:
            return run_batch(deliveries, entry_of, call, error_of, self._calls.pause)
        except MelangeError as error:
            return [Failure(delivery, error) for delivery in deliveries]


def _tens_by_queue(deliveries: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
    by_queue: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        by_queue.setdefault(delivery.queue.address, []).append(delivery)
    for of_queue in by_queue.values():
        for start in range(0, len(of_queue), MAX_BATCH):
            yield of_queue[start : start + MAX_BATCH]
