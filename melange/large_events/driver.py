"""A driver around another one, which keeps the bodies of large events in a store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from melange.drivers.base import (
    Binding,
    BrokerAdministration,
    Capabilities,
    EventFilter,
    MessagingDriver,
    NoDeadLetterQueue,
    QueueDepth,
)
from melange.drivers.dead_letters import NO_NOTES, DeadLetterAccess, FoundDeadLetter, MessageMoves
from melange.drivers.inspection import BrokerInspection, Inspectable
from melange.drivers.sqs_rules import check_message, message_size
from melange.errors import ConfigurationError, Failure, InvalidMessageError, MelangeError
from melange.large_events.payloads import (
    QUEUES,
    TOPICS,
    Compression,
    Payloads,
    ReceivedPointer,
    check_compression,
    of_deliveries,
    original_of,
)
from melange.large_events.pointers import HEADERS, is_pointer
from melange.large_events.stores import PayloadStore
from melange.messages import Delivery, Message, Queue, Topic

MAX_PAYLOAD_BYTES = 100 * 1024 * 1024

PAYLOAD_DAYS = 60
"""A message waits for at most 14 days in its queue and 14 in its dead-letter queue; the rest is for retries."""

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 30
"""The delay of a message when its payload is out of reach."""


class LargeEvents(MessagingDriver, BrokerAdministration):
    """The driver ``driver``, with the bodies of large events in ``store``.

    A message of more than ``threshold_bytes`` with its headers (by default: more than its topic or queue allows) is
    stored, and a pointer travels. Each of the store's buckets and ``readable_buckets`` may be read: a pointer is data
    from a stranger. A body has at most ``max_bytes``, also after decompression. ``compression`` is not understood by
    AWS's clients. Keys are ``prefix``, ``topics`` or ``queues``, its name, and the message's id.

    Payloads of topics stay, because other queues share them: let the bucket's lifecycle rule delete them. With
    ``delete_after_acknowledge`` those that were sent to a queue are deleted with their message. ``payload_days`` is for
    the lifecycle rule that ``melange topology export`` writes.

    Publishing blocks for the upload, receiving for the downloads, one after the other. A message without its payload
    is dead-lettered with the reason; while the store is out of reach, messages stay in their queue. Owns ``driver`` and
    closes it.
    """

    def __init__(
        self,
        driver: MessagingDriver,
        store: PayloadStore,
        *,
        threshold_bytes: int | None = None,
        max_bytes: int = MAX_PAYLOAD_BYTES,
        prefix: str = "melange/",
        compression: Compression | None = None,
        readable_buckets: Collection[str] = (),
        delete_after_acknowledge: bool = False,
        payload_days: int = PAYLOAD_DAYS,
    ) -> None:
        if not isinstance(driver, MessagingDriver) or not hasattr(store, "bucket"):
            raise ConfigurationError(f"LargeEvents takes a driver and a store, not {driver!r} and {store!r}")
        for name, count, least in (("threshold_bytes", threshold_bytes or 0, 0), ("max_bytes", max_bytes, 1)):
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise ConfigurationError(f"{name} must be a whole number of at least {least}, not {count!r}")
        if isinstance(readable_buckets, str):
            raise ConfigurationError("readable_buckets must be several names, not one: ['name']")
        check_compression(compression)
        self._driver = driver
        self.store = store
        self.payload_prefix = prefix
        self.payload_days = payload_days
        self._threshold_bytes = threshold_bytes
        self._payloads = Payloads(store, prefix, max_bytes, compression, {store.bucket, *readable_buckets})
        self._deletes = delete_after_acknowledge
        self._kept: set[str] = set()
        self.clock = driver.clock
        self.prefix = driver.prefix
        self.serializer = driver.serializer
        self.deduplication_store = driver.deduplication_store
        self.middleware = driver.middleware

    def __getattr__(self, name: str) -> Any:
        """Return what only the other driver has."""
        if name == "_driver":  # not yet, while an object is copied
            raise AttributeError(name)
        return getattr(self._driver, name)

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        small, failures = self._with_pointers(f"{TOPICS}/{topic.name}", topic, messages)
        return failures + _of_originals(self._driver.publish(topic, small) if small else [], messages)

    def send(
        self, queue: Queue, messages: Sequence[Message], *, delay_seconds: int = 0
    ) -> list[Failure[Message]]:
        small, failures = self._with_pointers(f"{QUEUES}/{queue.name}", queue, messages)
        failed = self._driver.send(queue, small, delay_seconds=delay_seconds) if small else []
        return failures + _of_originals(failed, messages)

    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        received = self._driver.receive(
            queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
        )
        if not any(is_pointer(delivery.message) for delivery in received):
            return received
        deliveries: list[Delivery] = []
        postponed: list[Delivery] = []
        problem: MelangeError | None = None
        groups = set()
        for delivery in received:
            group = delivery.message.message_group_id if queue.is_fifo else None
            try:
                if group is not None and group in groups:  # its order is kept
                    postponed.append(delivery)
                else:
                    deliveries.append(self._payloads.with_payload(delivery))
            except MelangeError as error:
                problem = error
                postponed.append(delivery)
                groups.add(group)
        if postponed:
            logger.warning(
                "%d messages of queue %r stay in it: their payloads are out of reach",
                len(postponed),
                queue.name,
            )
            self._driver.defer(postponed, _RETRY_SECONDS)
        if problem is not None and not deliveries:
            raise problem
        return deliveries

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        failures = self._driver.acknowledge([original_of(delivery) for delivery in deliveries])
        failed = {failure.item.receipt_handle for failure in failures}
        for delivery in deliveries:
            is_kept = delivery.receipt_handle in self._kept
            self._kept.discard(delivery.receipt_handle)
            if self._deletes and not is_kept and delivery.receipt_handle not in failed:
                self._payloads.delete(delivery)
        return of_deliveries(failures, deliveries)

    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        failures = self._driver.defer([original_of(delivery) for delivery in deliveries], seconds)
        return of_deliveries(failures, deliveries)

    def dead_letter(self, delivery: Delivery, note: str) -> None:
        """Send a copy as the other driver does. The copy has the pointer, so its payload must stay."""
        self._keep_payload_of(delivery)
        self._driver.dead_letter(original_of(delivery), note)

    def _keep_payload_of(self, delivery: Delivery) -> None:
        if isinstance(delivery.received, ReceivedPointer) and self._deletes:
            self._kept.add(delivery.receipt_handle)

    def _with_pointers(
        self, folder: str, destination: Topic | Queue, messages: Sequence[Message]
    ) -> tuple[list[Message], list[Failure[Message]]]:
        """Return the messages as they travel, and the failures of those that could not be stored."""
        limit = self._threshold_bytes if self._threshold_bytes is not None else destination.max_message_bytes
        for message in messages:
            self._check(message, is_fifo=destination.is_fifo)
        small: list[Message] = []
        failures: list[Failure[Message]] = []
        for message in messages:
            if failures and destination.is_fifo:  # its order is kept
                failures.append(Failure(message, failures[0].error))
                continue
            try:
                is_large = 4 * len(message.body) > limit or message.headers
                small.append(
                    self._payloads.stored(folder, message)
                    if is_large and message_size(message) > limit
                    else message
                )
            except MelangeError as error:
                failures.append(Failure(message, error))
        return small, failures

    def _check(self, message: Message, *, is_fifo: bool) -> None:
        # Before anything is stored: the other driver sees the pointer only.
        check_message(message, max_bytes=self._payloads.max_bytes, is_fifo=is_fifo)
        if not HEADERS.isdisjoint(message.headers):
            raise InvalidMessageError(
                f"message {message.message_id} has a header that belongs to large events: {', '.join(sorted(HEADERS))}"
            )

    # All else is the other driver's.

    @property
    def capabilities(self) -> Capabilities:
        return self._driver.capabilities

    @property
    def dead_letter_access(self) -> DeadLetterAccess | None:
        access = self._driver.dead_letter_access
        return access and LargeDeadLetters(access, self._payloads, self._keep_payload_of)

    def declare_topic(self, name: str, *, tags: Mapping[str, str] | None = None) -> Topic:
        return self._driver.declare_topic(name, tags=tags)

    def declare_queue(
        self,
        name: str,
        *topics: Topic,
        dead_letter_queue: Queue | NoDeadLetterQueue | None = None,
        max_receive_count: int | None = None,
        retention_seconds: int | None = None,
        event_filter: EventFilter | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Queue:
        return self._driver.declare_queue(
            name,
            *topics,
            dead_letter_queue=dead_letter_queue,
            max_receive_count=max_receive_count,
            retention_seconds=retention_seconds,
            event_filter=event_filter,
            tags=tags,
        )

    def get_topic(self, name: str) -> Topic:
        return self._driver.get_topic(name)

    def get_queue(self, name: str) -> Queue:
        return self._driver.get_queue(name)

    def adopt(self, delivery: Delivery) -> Delivery:
        return self._payloads.with_payload(self._driver.adopt(delivery))

    def end_waits(self, queue: Queue) -> None:
        self._driver.end_waits(queue)

    def close(self) -> None:
        self._driver.close()

    def list_bindings(self, queue: Queue) -> list[Binding]:
        return self._administration.list_bindings(queue)

    def measure_queue(self, queue: Queue) -> QueueDepth:
        return self._administration.measure_queue(queue)

    def purge_queue(self, queue: Queue) -> None:
        self._administration.purge_queue(queue)

    def delete_queue(self, queue: Queue) -> None:
        self._administration.delete_queue(queue)

    def delete_topic(self, topic: Topic) -> None:
        self._administration.delete_topic(topic)

    def inspection(self) -> BrokerInspection:
        """Return an inspection of the other driver's broker."""
        if not isinstance(self._driver, Inspectable):
            raise ConfigurationError(f"{type(self._driver).__name__} offers no inspection of its broker")
        return self._driver.inspection()

    @property
    def _administration(self) -> BrokerAdministration:
        if not isinstance(self._driver, BrokerAdministration):
            raise ConfigurationError(
                f"{type(self._driver).__name__} has no administration of queues and topics"
            )
        return self._driver


class LargeDeadLetters:
    """The dead letters of another driver. What is sent on is the pointer, so its payload must stay."""

    def __init__(
        self, access: DeadLetterAccess, payloads: Payloads, keep_payload_of: Callable[[Delivery], None]
    ) -> None:
        self._access = access
        self._payloads = payloads
        self._keep_payload_of = keep_payload_of

    @property
    def counts_are_estimates(self) -> bool:
        return self._access.counts_are_estimates

    @property
    def moves(self) -> MessageMoves | None:
        return self._access.moves

    def measure(self, queue: Queue) -> QueueDepth:
        return self._access.measure(queue)

    def sources(self, dead_letter_queue: Queue) -> dict[str, str]:
        return self._access.sources(dead_letter_queue)

    def browse(self, queue: Queue, *, visibility_timeout_seconds: int) -> list[FoundDeadLetter]:
        found = self._access.browse(queue, visibility_timeout_seconds=visibility_timeout_seconds)
        return [one._replace(delivery=self._readable(one.delivery)) for one in found]

    def resend(
        self, deliveries: Sequence[Delivery], target: Queue, *, notes: Mapping[str, str] = NO_NOTES
    ) -> list[Failure[Delivery]]:
        for delivery in deliveries:
            self._keep_payload_of(delivery)
        return of_deliveries(
            self._access.resend([original_of(one) for one in deliveries], target, notes=notes), deliveries
        )

    def _readable(self, delivery: Delivery) -> Delivery:
        try:
            return self._payloads.with_payload(delivery)
        except MelangeError:  # the store is out of reach: the pointer is better than nothing
            return delivery


def _of_originals(
    failures: Iterable[Failure[Message]], messages: Sequence[Message]
) -> list[Failure[Message]]:
    by_id = {message.message_id: message for message in messages}
    return [Failure(by_id.get(one.item.message_id, one.item), one.error) for one in failures]
