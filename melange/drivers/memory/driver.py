"""The in-memory driver: SNS and SQS semantics within one process."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from melange.clock import Clock, SystemClock
from melange.drivers.base import (
    Binding,
    BrokerAdministration,
    Capabilities,
    EventFilter,
    MessagingDriver,
    NoDeadLetterQueue,
    QueueDepth,
)
from melange.drivers.inspection import BrokerInspection
from melange.drivers.memory.broker import MemoryBroker, MemoryQueue
from melange.drivers.memory.dead_letters import MemoryDeadLetters
from melange.drivers.queue_spec import NamePrefix, QueueSpec
from melange.drivers.sqs_rules import (
    MAX_BATCH,
    MAX_IN_FLIGHT,
    MAX_VISIBILITY_SECONDS,
    MAX_WAIT_SECONDS,
    SQS_CAPABILITIES,
    check_delay,
    check_message,
    check_receive,
    check_whole_seconds,
)
from melange.engine.standard import Disorder
from melange.engine.waiting import take_when_there
from melange.errors import (
    DriverClosedError,
    DriverError,
    Failure,
    QueueNotFoundError,
)
from melange.messages import NO_HEADERS, Delivery, Message, Queue, Topic


class InMemoryDriver(MessagingDriver, BrokerAdministration):
    """A broker in memory, with the semantics of SNS and SQS, for laptops and tests. Thread-safe.

    Each driver is a separate broker: messages exist as long as it does, and other drivers do not see its topics and
    queues. Messages pass through as immutable text; headers are copied. Every operation except ``measure_queue`` costs
    the same at any queue depth. Tags of queues are kept for ``inspection``. An exception that strikes in the middle of an
    operation, such as KeyboardInterrupt, leaves every queue consistent: the interrupted operation has happened or not.

    Args:
        clock: the clock of deadlines, delays, ages and waits.
        prefix: stands before the names of topics and queues in their addresses.
        duplicates: the share of messages, from 0 to 1, that a standard queue delivers twice, as SQS may.
        shuffle: True has standard queues deliver out of order, as SQS may.
        seed: makes duplicates and order the same in each run. They depend on the order of arrival alone.

    Raises:
        ConfigurationError: ``duplicates`` is not a number from 0 to 1.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        prefix: str = "",
        duplicates: float = 0,
        shuffle: bool = False,
        seed: int | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        disorder = Disorder(seed=seed, duplicates=duplicates, shuffle=shuffle)
        self._lock = threading.Lock()  # guards everything below, and each of the queues
        self.prefix = prefix
        self._broker = MemoryBroker(disorder, NamePrefix(prefix))
        self._closed = False
        self._dead_letters = MemoryDeadLetters(self, self._lock, self._broker)

    @property
    def capabilities(self) -> Capabilities:
        return SQS_CAPABILITIES

    @property
    def dead_letter_access(self) -> MemoryDeadLetters:
        return self._dead_letters

    def declare_topic(self, name: str, *, tags: Mapping[str, str] | None = None) -> Topic:
        with self._lock:
            self._check_open()
            return self._broker.declare_topic(name)

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
        spec = QueueSpec(name, topics, dead_letter_queue, max_receive_count, retention_seconds, event_filter)
        with self._lock:
            self._check_open()
            return self._broker.declare_queue(spec, tags or {})

    def get_topic(self, name: str) -> Topic:
        with self._lock:
            self._check_open()
            return self._broker.find_topic(name).topic

    def get_queue(self, name: str) -> Queue:
        with self._lock:
            self._check_open()
            return self._broker.find_queue(name).queue

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        with self._lock:
            if self._closed:
                raise DriverClosedError
            target = self._broker.topics.get(topic.address) or self._broker.topic(topic)
            max_bytes, is_fifo = target.topic.max_message_bytes, target.topic.is_fifo
            for message in messages:
                check_message(message, max_bytes=max_bytes, is_fifo=is_fifo)
            now = self.clock.monotonic()
            for message in messages:
                target.publish(message if message.headers is NO_HEADERS else _own(message), now)
        return []

    def send(
        self, queue: Queue, messages: Sequence[Message], *, delay_seconds: int = 0
    ) -> list[Failure[Message]]:
        check_delay(queue, delay_seconds)
        with self._lock:
            if self._closed:
                raise DriverClosedError
            target = self._broker.queue(queue)
            put = target.stored.put
            max_bytes, is_fifo = target.queue.max_message_bytes, target.queue.is_fifo
            for message in messages:
                check_message(message, max_bytes=max_bytes, is_fifo=is_fifo)
            now = self.clock.monotonic()
            for message in messages:
                group_id, deduplication_id = message.message_group_id, message.message_deduplication_id
                put(_own(message), now, group_id, deduplication_id, delay_seconds=delay_seconds)
        return []

    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        """Take deliveries; see ``MessagingDriver.receive``. A ``limit`` above ten is taken as ten.

        Raises:
            DriverError: 120,000 deliveries are in flight already and ``wait_seconds`` is 0. A FIFO queue
                and a longer wait answer with ``[]`` instead; so does SQS.
        """
        if not (
            type(limit) is type(wait_seconds) is type(visibility_timeout_seconds) is int
            and limit >= 1
            and 0 <= wait_seconds <= MAX_WAIT_SECONDS
            and 0 <= visibility_timeout_seconds <= MAX_VISIBILITY_SECONDS
        ):
            check_receive(limit, wait_seconds, visibility_timeout_seconds)
        limit = min(limit, MAX_BATCH)
        with self._lock:
            if self._closed:
                raise DriverClosedError
            source = self._broker.queues.get(queue.address) or self._broker.queue(queue)
            now = self.clock.monotonic()
            deliveries = source.take(limit, now, visibility_timeout_seconds)
            ended_waits = source.stored.ended_waits
            if not deliveries and not wait_seconds and source.stored.is_full and not queue.is_fifo:
                raise DriverError(
                    f"queue {queue.name!r} has {MAX_IN_FLIGHT:,} deliveries in flight: acknowledge some of them first"
                )
        if deliveries or not wait_seconds:
            return deliveries
        return self._receive_later(source, limit, visibility_timeout_seconds, now + wait_seconds, ended_waits)

    def _receive_later(
        self,
        source: MemoryQueue,
        limit: int,
        visibility_timeout_seconds: int,
        give_up_at: float,
        ended_waits: int,
    ) -> list[Delivery]:
        def take(now: float) -> list[Delivery]:
            self._broker.queue(source.queue)  # raises if it was deleted meanwhile
            return source.take(limit, now, visibility_timeout_seconds)

        deliveries = take_when_there(
            source.stored,
            take,
            lock=self._lock,
            clock=self.clock,
            give_up_at=give_up_at,
            ended_waits=ended_waits,
            is_given_up=lambda: self._closed,
        )
        return deliveries or []

    def end_waits(self, queue: Queue) -> None:
        with self._lock:
            source = self._broker.queues.get(queue.address)
            if source is not None:
                source.stored.end_waits()

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        failures = []
        with self._lock:
            if self._closed:
                raise DriverClosedError
            now = self.clock.monotonic()
            for delivery in deliveries:
                source = self._broker.queues.get(delivery.queue.address)
                error = source.acknowledge(delivery, now) if source else _gone(delivery)
                if error is None:
                    continue
                failures.append(Failure(delivery, error))
        return failures

    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        check_whole_seconds("seconds", seconds, 0, MAX_VISIBILITY_SECONDS)
        failures = []
        with self._lock:
            if self._closed:
                raise DriverClosedError
            now = self.clock.monotonic()
            for delivery in deliveries:
                source = self._broker.queues.get(delivery.queue.address)
                error = source.defer(delivery, seconds, now) if source else _gone(delivery)
                if error is None:
                    continue
                failures.append(Failure(delivery, error))
        return failures

    def list_bindings(self, queue: Queue) -> list[Binding]:
        with self._lock:
            self._check_open()
            return self._broker.bindings_of(queue)

    def inspection(self) -> BrokerInspection:
        """Return an inspection of this broker, for ``melange.topology``."""
        # Few programs inspect, and all of them import this module.
        from melange.drivers.memory.inspection import MemoryInspection  # noqa: PLC0415

        return MemoryInspection(self._broker, self._lock, self.clock, self._check_open)

    def measure_queue(self, queue: Queue) -> QueueDepth:
        with self._lock:
            self._check_open()
            return self._broker.queue(queue).stored.measure(self.clock.monotonic())

    def list_messages(self, queue: Queue) -> list[Message]:
        """Return all messages of a queue in the order of arrival, invisible ones included. Receive nothing."""
        with self._lock:
            self._check_open()
            return self._broker.queue(queue).messages()

    def next_due(self) -> float:
        """Return the clock's next time at which a message of any queue may become visible; infinity if none will."""
        with self._lock:
            self._check_open()
            now = self.clock.monotonic()
            deadlines = (queue.stored.next_deadline for queue in self._broker.queues.values())
            # What became visible earlier stays where no receiver has come since.
            return min((deadline for deadline in deadlines if deadline > now), default=math.inf)

    def purge_queue(self, queue: Queue) -> None:
        with self._lock:
            self._check_open()
            self._broker.queue(queue).stored.purge()

    def delete_queue(self, queue: Queue) -> None:
        with self._lock:
            self._check_open()
            self._broker.delete_queue(queue)

    def delete_topic(self, topic: Topic) -> None:
        with self._lock:
            self._check_open()
            self._broker.delete_topic(topic)

    def close(self) -> None:
        """Raise ``DriverClosedError`` from now on; running receives return ``[]`` at once. Idempotent."""
        with self._lock:
            self._closed = True
            for queue in self._broker.queues.values():
                queue.stored.waiters.wake_all()

    def _check_open(self) -> None:
        # Written out in the methods through which each message comes: a call costs more than the question.
        if self._closed:
            raise DriverClosedError


def _gone(delivery: Delivery) -> DriverError:
    return QueueNotFoundError(delivery.queue.name)


def _own(message: Message) -> Message:
    """Return the message with headers of its own: a read-only view may be of a dict that the caller still changes."""
    if message.headers is NO_HEADERS:
        return message
    return message._replace(headers=MappingProxyType(dict(message.headers)))
