"""The in-memory driver: what passes here passes on SNS and SQS."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from melange.clock import Clock, SystemClock
from melange.drivers.base import (
    BrokerAdministration,
    Capabilities,
    EventFilter,
    MessagingDriver,
    NoDeadLetterQueue,
    QueueDepth,
)
from melange.drivers.memory.topology import Topology
from melange.drivers.queue_spec import QueueSpec
from melange.drivers.sqs_rules import (
    MAX_BATCH,
    MAX_DELAY_SECONDS,
    MAX_IN_FLIGHT,
    MAX_VISIBILITY_SECONDS,
    MAX_WAIT_SECONDS,
    check_message,
    check_whole_seconds,
)
from melange.errors import (
    ConfigurationError,
    DriverClosedError,
    DriverError,
    Failure,
    InvalidMessageError,
    QueueNotFoundError,
)
from melange.messages import NO_HEADERS, Delivery, Message, Queue, Topic

_CAPABILITIES = Capabilities(
    fifo=True,
    content_based_deduplication=True,
    dead_letter_queues=True,
    event_filters=True,
    detects_stale_handles=True,
    max_delay_seconds=MAX_DELAY_SECONDS,
    max_visibility_seconds=MAX_VISIBILITY_SECONDS,
    max_wait_seconds=MAX_WAIT_SECONDS,
    max_receive_batch=MAX_BATCH,
    max_message_bytes=1_048_576,
)


class InMemoryDriver(MessagingDriver, BrokerAdministration):
    """SNS and SQS semantics within one process, for laptops and tests. Safe to share between threads.

    Each driver is a broker of its own: messages live as long as it does. They pass through as immutable
    text; headers are copied. Every operation but ``measure_queue`` costs the same whatever a queue's depth.
    Tags are taken and forgotten: there is nobody to read them.

    Args:
        clock: counts deadlines, delays and ages, and does the waiting.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self._lock = threading.Lock()  # guards everything below, and each of the queues
        self._topology = Topology(self._lock)
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    def declare_topic(
        self,
        name: str,
        *,
        content_based_deduplication: bool | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Topic:
        with self._lock:
            self._check_open()
            return self._topology.declare_topic(name, content_based_deduplication)

    def declare_queue(
        self,
        name: str,
        *topics: Topic,
        dead_letter_queue: Queue | NoDeadLetterQueue | None = None,
        max_receive_count: int | None = None,
        retention_seconds: int | None = None,
        event_filter: EventFilter | None = None,
        content_based_deduplication: bool | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Queue:
        spec = QueueSpec(
            name,
            topics,
            dead_letter_queue,
            max_receive_count,
            retention_seconds,
            event_filter,
            content_based_deduplication,
        )
        with self._lock:
            self._check_open()
            return self._topology.declare_queue(spec)

    def get_topic(self, name: str) -> Topic:
        with self._lock:
            self._check_open()
            return self._topology.find_topic(name).topic

    def get_queue(self, name: str) -> Queue:
        with self._lock:
            self._check_open()
            return self._topology.find_queue(name).queue

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        with self._lock:
            self._check_open()
            target = self._topology.find_topic(topic.name)
            _check_all(messages, target.topic, target.content_based_deduplication)
            now = self.clock.monotonic()
            for message in messages:
                target.publish(_own(message), now)
        return []

    def send(
        self, queue: Queue, messages: Sequence[Message], *, delay_seconds: int = 0
    ) -> list[Failure[Message]]:
        check_whole_seconds("delay_seconds", delay_seconds, 0, MAX_DELAY_SECONDS)
        with self._lock:
            self._check_open()
            target = self._topology.find_queue(queue.name)
            if delay_seconds and target.queue.is_fifo:
                raise InvalidMessageError(f"queue {queue.name!r} is FIFO and knows no delay per message")
            _check_all(messages, target.queue, target.content_based_deduplication)
            now = self.clock.monotonic()
            for message in messages:
                target.put(_own(message), now, delay_seconds)
        return []

    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        """Take deliveries; see ``MessagingDriver.receive``. A ``limit`` above ten is taken as ten.

        Raises:
            DriverError: 120,000 deliveries are in flight already and ``wait_seconds`` is 0. A FIFO queue
                and a longer wait answer with ``[]`` instead; so does SQS.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ConfigurationError(f"limit must be a whole number of at least 1, not {limit!r}")
        check_whole_seconds("wait_seconds", wait_seconds, 0, MAX_WAIT_SECONDS)
        check_whole_seconds(
            "visibility_timeout_seconds", visibility_timeout_seconds, 0, MAX_VISIBILITY_SECONDS
        )
        with self._lock:
            self._check_open()
            now = self.clock.monotonic()
            give_up_at = now + wait_seconds
            ended_waits = self._topology.find_queue(queue.name).ended_waits
            while True:
                # Looked up anew each time: it may be deleted while we wait.
                source = self._topology.find_queue(queue.name)
                deliveries = source.take(min(limit, MAX_BATCH), now, visibility_timeout_seconds)
                if deliveries or now >= give_up_at:
                    break
                source.wait(self.clock, now, give_up_at)
                if self._closed or source.ended_waits != ended_waits:
                    return []
                now = self.clock.monotonic()
            if source.is_full and not deliveries and not wait_seconds and not source.queue.is_fifo:
                raise DriverError(
                    f"queue {queue.name!r} has {MAX_IN_FLIGHT:,} deliveries in flight: acknowledge some of them first"
                )
            return deliveries

    def end_waits(self, queue: Queue) -> None:
        with self._lock:
            source = self._topology.queues.get(queue.name)
            if source is not None:
                source.ended_waits += 1
                source.wake_all()

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        failures = []
        with self._lock:
            self._check_open()
            now = self.clock.monotonic()
            for delivery in deliveries:
                source = self._topology.queues.get(delivery.queue.name)
                error = (
                    source.acknowledge(delivery, now) if source else QueueNotFoundError(delivery.queue.name)
                )
                if error:
                    failures.append(Failure(delivery, error))
        return failures

    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        check_whole_seconds("seconds", seconds, 0, MAX_VISIBILITY_SECONDS)
        failures = []
        with self._lock:
            self._check_open()
            now = self.clock.monotonic()
            for delivery in deliveries:
                source = self._topology.queues.get(delivery.queue.name)
                error = (
                    source.defer(delivery, seconds, now)
                    if source
                    else QueueNotFoundError(delivery.queue.name)
                )
                if error:
                    failures.append(Failure(delivery, error))
        return failures

    def measure_queue(self, queue: Queue) -> QueueDepth:
        with self._lock:
            self._check_open()
            return self._topology.find_queue(queue.name).measure(self.clock.monotonic())

    def purge_queue(self, queue: Queue) -> None:
        with self._lock:
            self._check_open()
            self._topology.find_queue(queue.name).purge()

    def delete_queue(self, queue: Queue) -> None:
        with self._lock:
            self._check_open()
            self._topology.delete_queue(queue.name)

    def delete_topic(self, topic: Topic) -> None:
        with self._lock:
            self._check_open()
            self._topology.delete_topic(topic.name)

    def close(self) -> None:
        """Refuse everything from now on; receives under way return ``[]`` at once. Idempotent."""
        with self._lock:
            self._closed = True
            for queue in self._topology.queues.values():
                queue.wake_all()

    def _check_open(self) -> None:
        if self._closed:
            raise DriverClosedError


def _check_all(messages: Sequence[Message], target: Topic | Queue, content_based_deduplication: bool) -> None:
    for message in messages:
        check_message(
            message,
            max_bytes=target.max_message_bytes,
            is_fifo=target.is_fifo,
            content_based_deduplication=content_based_deduplication,
        )


def _own(message: Message) -> Message:
    """Return the message with headers that nobody else holds: even a read-only view may be of a living dict."""
    if message.headers is NO_HEADERS:
        return message
    return message._replace(headers=MappingProxyType(dict(message.headers)))
