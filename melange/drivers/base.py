"""The driver contract: everything that melange asks of a broker, and nothing else of melange knows which.

``melange.testing.DriverContract`` is the executable form of these docstrings.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

from melange.clock import Clock, SystemClock
from melange.errors import Failure, InvalidMessageError
from melange.messages import DEAD_LETTER_HEADER, Delivery, Message, Queue, Topic

if TYPE_CHECKING:
    from melange.deduplication.base import DeduplicationStore
    from melange.serialization.serializer import EventSerializer


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a broker can do, as data: the documentation's table and the contract suite read it."""

    fifo: bool = False
    """Topics and queues named ``*.fifo`` keep order per message group and deduplicate."""
    content_based_deduplication: bool = False
    dead_letter_queues: bool = False
    event_filters: bool = False
    detects_stale_handles: bool = False
    """A receipt handle stops working once the message was delivered to somebody else."""
    max_delay_seconds: int = 0
    """The longest delay of a single message; 0 where the broker has none."""
    max_visibility_seconds: int = 43_200
    max_wait_seconds: int = 20
    max_receive_batch: int = 10
    max_message_bytes: int = 262_144


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which event types a queue wants from its topics.

    Scope ``"headers"`` reads the type from the message's headers and so never passes a message that
    somebody published without melange; ``"body"`` reads ``event_type_name`` in the body.
    """

    event_type_names: tuple[str, ...]
    scope: Literal["headers", "body"] = "headers"


class NoDeadLetterQueue(Enum):
    """The type of ``NO_DEAD_LETTER_QUEUE``."""

    NO_DEAD_LETTER_QUEUE = "no dead-letter queue"


NO_DEAD_LETTER_QUEUE: Final = NoDeadLetterQueue.NO_DEAD_LETTER_QUEUE
"""Says that a queue shall have no dead-letter queue. Not None, which arguments are by accident."""


class MessagingDriver(ABC):
    """The way to one broker.

    All methods are thread-safe and may be called until ``close()``; afterwards they raise
    ``DriverClosedError``. All durations are whole seconds, because the narrowest broker counts so.
    What a broker or its client library raises never passes: drivers raise ``MelangeError``s.

    Methods that take several messages or deliveries judge each by itself: they return the failed ones
    with their errors, and an empty list when all went well. Callers recognise a failed message by its
    ``message_id`` and a failed delivery by its ``receipt_handle``, so an equal copy will do. They raise only when they refuse the call
    as a whole, and then nothing has happened.
    """

    clock: Clock = SystemClock()
    """The clock by which deadlines are counted."""

    serializer: EventSerializer | None = None
    """Writes and reads the events of the publishers and consumers on this driver; None means the process's own."""

    deduplication_store: DeduplicationStore | None = None
    """The store of the consumers on this driver that are given none; None means one in memory, made when needed."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this broker can do."""

    @abstractmethod
    def declare_topic(self, name: str, *, tags: Mapping[str, str] | None = None) -> Topic:
        """Return the topic ``name``, created if need be; idempotent, safe from many processes at once.

        What the caller leaves None is the broker's default on creation and untouched afterwards.
        A name that ends in ``.fifo`` makes a FIFO topic.

        Raises:
            InvalidNameError: the broker would refuse the name.
        """

    @abstractmethod
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
        """Return the queue ``name``, created if need be and bound to ``topics``; idempotent.

        Bindings are added and never removed, those of other topics stay. When this returns, what is
        published to ``topics`` reaches the queue. Arguments that the caller does not name are the
        broker's defaults on creation and untouched afterwards; named ones are made so, also on an
        existing queue. ``NO_DEAD_LETTER_QUEUE`` takes an existing one off. ``max_receive_count`` is
        the broker's own limit and needs a dead-letter queue. ``event_filter`` applies to the bindings
        to ``topics`` only; one without event types takes an existing filter off.

        Raises:
            InvalidNameError: the broker would refuse the name.
            ConfigurationError: the arguments contradict each other or what exists: a standard topic
                cannot feed a FIFO queue, a dead-letter queue is of its source's kind.
        """

    @abstractmethod
    def get_topic(self, name: str) -> Topic:
        """Return an existing topic, by name or, where the broker has such, by ARN; creates nothing.

        Raises:
            TopicNotFoundError: there is none.
        """

    @abstractmethod
    def get_queue(self, name: str) -> Queue:
        """Return an existing queue, by name or, where the broker has such, by ARN; creates nothing.

        Raises:
            QueueNotFoundError: there is none.
        """

    @abstractmethod
    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        """Hand messages to a topic: every bound queue whose filter lets them pass gets its own copy.

        Returns when the broker has accepted or refused each. Any number may be given; they travel in
        as few network calls as the broker's limits allow. On a FIFO topic the order is kept: after the
        first failed network call the rest is not sent, and is reported as failed.

        Raises:
            InvalidMessageError: the broker would refuse one of them (size with headers, characters,
                missing group id ...); nothing was sent.
            TopicNotFoundError: the topic is gone.
        """

    @abstractmethod
    def send(
        self, queue: Queue, messages: Sequence[Message], *, delay_seconds: int = 0
    ) -> list[Failure[Message]]:
        """Hand messages to one queue, visible after ``delay_seconds``; otherwise as ``publish``.

        FIFO queues know no delay per message: one is refused with ``InvalidMessageError``.

        Raises:
            InvalidMessageError: as for ``publish``.
            QueueNotFoundError: the queue is gone.
        """

    @abstractmethod
    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        """Take at most ``limit`` deliveries; ``[]`` when nothing came.

        Blocks until something is there, ``wait_seconds`` at most, and returns at once with what there
        is. Each delivery stays invisible to others for ``visibility_timeout_seconds``; unless it is
        acknowledged it comes back after that with a higher receive count.

        Raises:
            QueueNotFoundError: the queue is gone.
            DriverConnectionError: the broker could not be reached; asking again may work.
        """

    def end_waits(self, queue: Queue) -> None:  # noqa: B027 - to do nothing is right for most brokers
        """Have receives that wait at this moment for messages of the queue return ``[]``, if that loses nothing.

        Asked of a driver when a worker stops. Where the broker may hand out messages that nobody then takes, as SQS
        may, it does nothing: they end in their own time.
        """

    @abstractmethod
    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        """Remove the deliveries' messages from their queues for good; idempotent.

        A delivery whose deadline has passed is reported with ``LeaseLostError`` and left alone, since
        somebody else may be working on it; one that was acknowledged before is no failure.
        """

    @abstractmethod
    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        """Make the deliveries visible again after ``seconds`` from now; 0 is at once.

        Used to give work back, and to keep it: pushing the deadline out. Lost leases are reported as
        for ``acknowledge``. The deliveries themselves stay as they are: who keeps one beyond its deadline
        goes on with ``delivery._replace(deadline=...)``, counted from before this call.
        """

    def dead_letter(self, delivery: Delivery, note: str) -> None:
        """Send a copy of the delivery's message to its queue's dead-letter queue; acknowledge nothing.

        The copy is what was received: the same body, id, headers and type, and on a FIFO queue the same group.
        ``note`` (JSON, up to some 2,000 characters) goes along as the header ``melange-dead-letter``. Where the broker's
        limits leave no room for it, the copy goes without it: a message that could be received can be dead-lettered.

        Raises:
            DriverError: the copy was not accepted.
        """
        queue = delivery.queue.dead_letter_queue
        assert queue is not None
        message = dead_letter_of(delivery, is_fifo=queue.is_fifo)
        noted = {**message.headers, DEAD_LETTER_HEADER: note}
        try:
            failures = self.send(queue, [message._replace(headers=MappingProxyType(noted))])
        except InvalidMessageError:
            failures = self.send(queue, [message])
        if failures:
            raise failures[0].error

    @abstractmethod
    def close(self) -> None:
        """Let go of connections and threads; idempotent. Receives under way end soon."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many messages a queue holds; approximate where the broker only estimates."""

    visible: int
    in_flight: int
    delayed: int


class BrokerAdministration(ABC):
    """What only administrators and tests need; drivers may offer it beside ``MessagingDriver``."""

    @abstractmethod
    def measure_queue(self, queue: Queue) -> QueueDepth:
        """Count the queue's messages."""

    @abstractmethod
    def purge_queue(self, queue: Queue) -> None:
        """Remove all messages of a queue, those in flight included."""

    @abstractmethod
    def delete_queue(self, queue: Queue) -> None:
        """Remove a queue, its messages and its bindings; no error when it is gone already."""

    @abstractmethod
    def delete_topic(self, topic: Topic) -> None:
        """Remove a topic and its bindings; no error when it is gone already."""


def dead_letter_of(delivery: Delivery, *, is_fifo: bool) -> Message:
    """Return the delivery's message as it goes to a dead-letter queue."""
    message = delivery.message
    headers = {name: value for name, value in message.headers.items() if name != DEAD_LETTER_HEADER}
    message = message._replace(headers=MappingProxyType(headers))
    if not is_fifo:
        return message
    # The message id alone is not enough: a message that was moved back to its queue and fails again within five
    # minutes would count as a duplicate, vanish from the dead letters, and then be acknowledged.
    one_receipt = hashlib.sha256(f"{message.message_id} {delivery.receipt_handle}".encode())
    return message._replace(
        message_group_id=message.message_group_id or message.message_id,
        message_deduplication_id=one_receipt.hexdigest(),
    )


def find_topic(driver: MessagingDriver, name: str, *, declare: bool) -> Topic:
    """Return the topic, created if need be and ``declare`` is true.

    A topic given by ARN is somebody's own: it must exist and is never created.
    """
    if declare and not (isinstance(name, str) and name.startswith("arn:")):
        return driver.declare_topic(name)
    return driver.get_topic(name)
