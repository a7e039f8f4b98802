"""The driver contract: the operations that melange needs from a broker. The rest of melange uses only this.

``melange.testing.DriverContract`` is the executable form of these docstrings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

from melange.clock import Clock, SystemClock
from melange.drivers.dead_letters import DeadLetterAccess, dead_letter_of
from melange.errors import ConfigurationError, Failure, InvalidMessageError, MelangeError
from melange.messages import DEAD_LETTER_HEADER, NO_HEADERS, Delivery, Message, Queue, Topic
from melange.serialization.serializer import EventSerializer

if TYPE_CHECKING:
    from melange.consuming.consumer import ExchangeMessageConsumer
    from melange.deduplication.base import DeduplicationStore
    from melange.middleware import Middleware


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a broker supports, as data. Consumers read it, and refuse what the broker does not support."""

    fifo: bool = False
    """Topics and queues named ``*.fifo`` keep the order of each message group and deduplicate."""
    dead_letter_queues: bool = False
    """The broker moves a message to the dead-letter queue by itself after ``max_receive_count`` receives."""
    event_filters: bool = False
    """A binding can select event types."""
    max_visibility_seconds: int = 43_200
    """How long a message can stay invisible, counted from its receipt."""
    max_wait_seconds: int = 20
    """The longest wait of a receive."""
    max_receive_batch: int = 10
    """The most deliveries of one receive."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which event types a queue receives from its topics; with no type at all, every message.

    Scope ``"headers"`` reads the type from the message's headers, so it excludes messages that were
    published without melange. Scope ``"body"`` reads ``event_type_name`` in the body.
    """

    event_type_names: tuple[str, ...]
    scope: Literal["headers", "body"] = "headers"


class NoDeadLetterQueue(Enum):
    """The type of ``NO_DEAD_LETTER_QUEUE``."""

    NO_DEAD_LETTER_QUEUE = "no dead-letter queue"


NO_DEAD_LETTER_QUEUE: Final = NoDeadLetterQueue.NO_DEAD_LETTER_QUEUE
"""Removes the dead-letter queue from a queue. It is not None, because an argument may be None by accident."""


class MessagingDriver(ABC):
    """The connection to one broker.

    All methods are thread-safe and may be called until ``close()``; afterwards they raise ``DriverClosedError``.
    All durations are whole seconds, because brokers count in those. Drivers raise subclasses of ``MelangeError``
    only: what a broker or its client library raises is wrapped.

    Methods that take several messages or deliveries judge each of them separately. They return the failed ones with
    their errors, and an empty list when all went well. Callers recognise a failed message by its ``message_id`` and a
    failed delivery by its ``receipt_handle``: the item of a failure equals what was passed in, and may be a copy.
    These methods raise only when they refuse the whole call, and then nothing has happened.

    The ``address`` of a topic or queue is unique among all brokers. Marks of finished work are stored under it.
    """

    clock: Clock = SystemClock()
    """The clock by which deadlines are counted."""

    prefix: str = ""
    """Stands before the names of topics and queues at the broker; programs, errors and logs use names without it."""

    serializer: EventSerializer = EventSerializer.instance()
    """Writes and reads the events of the publishers and consumers on this driver; by default the process's own."""

    deduplication_store: DeduplicationStore | None = None
    """The store of the consumers on this driver without one of their own; None means one in memory, made when needed."""

    middleware: Sequence[Middleware] = ()
    """The hooks around everything that publishes and consumes through this driver; set it before consumers are made."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this broker can do."""

    @property
    def dead_letter_access(self) -> DeadLetterAccess | None:
        """The administration of dead letters, see ``melange.drivers.dead_letters``; None if the driver offers none."""
        return None

    def middleware_for(self, consumer: ExchangeMessageConsumer) -> Sequence[Middleware]:
        """Return the hooks around those of a consumer that is being created."""
        return self.middleware

    @abstractmethod
    def declare_topic(self, name: str, *, tags: Mapping[str, str] | None = None) -> Topic:
        """Return the topic ``name``; create it if it does not exist. Idempotent, safe from many processes at once.

        An argument that is None gets the broker's default on creation and changes nothing afterwards.
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
        """Return the queue ``name``, bound to ``topics``; create it if it does not exist. Idempotent.

        Bindings are added and never removed. When this returns, messages published to ``topics`` reach the
        queue. An argument that is None gets the broker's default on creation and changes nothing afterwards;
        others are also applied to an existing queue. ``NO_DEAD_LETTER_QUEUE`` removes an existing
        dead-letter queue. ``max_receive_count`` is the broker's own limit and needs a dead-letter queue.
        ``event_filter`` applies to the bindings to ``topics`` only; one without event types removes an
        existing filter.

        Raises:
            InvalidNameError: the broker would refuse the name.
            ConfigurationError: the arguments contradict each other or what exists: a standard topic
                cannot feed a FIFO queue, and a dead-letter queue has the type of its source.
        """

    @abstractmethod
    def get_topic(self, name: str) -> Topic:
        """Return an existing topic, by name or, if the broker has ARNs, by ARN. Create nothing.

        Raises:
            TopicNotFoundError: the topic does not exist.
        """

    @abstractmethod
    def get_queue(self, name: str) -> Queue:
        """Return an existing queue, by name or, if the broker has ARNs, by ARN. Create nothing.

        Raises:
            QueueNotFoundError: the queue does not exist.
        """

    @abstractmethod
    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        """Publish messages to a topic: every bound queue with a filter that accepts them gets a copy.

        Returns when the broker has accepted or refused each. Any number may be given; they travel in
        as few network calls as the broker's limits allow. On a FIFO topic the order is kept: after the
        first failed network call the rest is not sent, and is reported as failed.

        Raises:
            InvalidMessageError: the broker would refuse one of them (size with headers, characters,
                missing group id ...); nothing was sent.
            TopicNotFoundError: the topic does not exist any more.
        """

    @abstractmethod
    def send(
        self, queue: Queue, messages: Sequence[Message], *, delay_seconds: int = 0
    ) -> list[Failure[Message]]:
        """Send messages to one queue, visible after ``delay_seconds``; otherwise as ``publish``.

        FIFO queues have no delay for a single message: it raises ``InvalidMessageError``.

        Raises:
            InvalidMessageError: as for ``publish``.
            QueueNotFoundError: the queue does not exist any more.
        """

    @abstractmethod
    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        """Return at most ``limit`` deliveries, or ``[]``.

        Block until a message is visible, at most ``wait_seconds``; then return the visible messages without
        waiting for more. Each delivery stays invisible to others for ``visibility_timeout_seconds``. Unless it is
        acknowledged, it comes back after that with a higher receive count. The count continues when the broker
        moves a message to its dead-letter queue. Of a FIFO queue's group, the messages before its first
        invisible one are received, in order.

        Raises:
            QueueNotFoundError: the queue does not exist any more.
            DriverConnectionError: the broker is unavailable; another try may succeed.
        """

    def adopt(self, delivery: Delivery) -> Delivery:
        """Return a delivery that another program received from the broker, as AWS Lambda does, as ``receive`` returns it.

        Raises:
            DriverError: what the delivery needs is out of reach; a later try may succeed.
        """
        return delivery

    def end_waits(self, queue: Queue) -> None:  # noqa: B027 - doing nothing is right for most brokers
        """Let waiting receives of the queue return ``[]`` now, if that loses nothing.

        A worker calls it when it stops. A driver does nothing if the broker may deliver messages to the ended
        receive, as SQS may: those receives then end by themselves.
        """

    @abstractmethod
    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        """Remove the deliveries' messages from their queues. Idempotent.

        A delivery past its deadline is reported with ``LeaseLostError`` and not removed, since
        another receiver may be working on it. The same happens with a receipt handle of another queue.
        A second acknowledgement is not a failure.
        """

    @abstractmethod
    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        """Make the deliveries visible again after ``seconds`` from now; 0 is at once.

        Use it to release deliveries, and to extend their leases. Brokers limit how long a message can stay invisible from
        its receipt (``capabilities.max_visibility_seconds``): longer ``seconds`` are cut to what is left of that, which is
        not a failure. Lost leases are reported as for ``acknowledge``. The deliveries do not change: to keep one
        beyond its deadline, go on with ``delivery._replace(deadline=...)``, counted from before this call and cut in
        the same way.
        """

    def dead_letter(self, delivery: Delivery, note: str) -> None:
        """Send a copy of the delivery's message to the dead-letter queue of its queue. Do not acknowledge it.

        The copy is what was received: the same body, id, headers and type, and on a FIFO queue the same group.
        ``note`` (JSON, up to some 2,000 characters) becomes the header ``melange-dead-letter``. Every message
        that could be received can be dead-lettered: if the broker's limits leave no space for the note, the copy
        goes without it, and as a last resort without its headers.

        Raises:
            ConfigurationError: the queue has no dead-letter queue.
            DriverError: the copy was not accepted.
        """
        queue = delivery.queue.dead_letter_queue
        if queue is None:
            raise ConfigurationError(
                f"queue {delivery.queue.name!r} has no dead-letter queue: declare it with dead_letter_queue="
            )
        message = dead_letter_of(delivery, is_fifo=queue.is_fifo)
        noted = {**message.headers, DEAD_LETTER_HEADER: note}
        for copy in (
            message._replace(headers=MappingProxyType(noted)),
            message,
            message._replace(headers=NO_HEADERS),
        ):
            error = self._refusal_of(queue, copy)
            if not isinstance(error, InvalidMessageError):
                break
        if error is not None:
            raise error

    def _refusal_of(self, queue: Queue, message: Message) -> MelangeError | None:
        try:
            failures = self.send(queue, [message])
        except InvalidMessageError as error:
            return error
        return failures[0].error if failures else None

    @abstractmethod
    def close(self) -> None:
        """Close connections and end threads. Idempotent. Running receives end soon."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the driver without blocking the event loop."""
        from melange.asynchronous import in_thread  # noqa: PLC0415 - it brings asyncio

        await in_thread(self.close, "async with a driver")

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
    """The number of messages in a queue; an estimate on some brokers."""

    visible: int
    in_flight: int
    delayed: int


@dataclass(frozen=True, slots=True)
class Binding:
    """A topic that feeds a queue, as the broker has it; ``event_filter`` is None without a filter."""

    topic: Topic
    event_filter: EventFilter | None = None


class BrokerAdministration(ABC):
    """Operations for administrators and tests; drivers may offer them beside ``MessagingDriver``."""

    @abstractmethod
    def list_bindings(self, queue: Queue) -> list[Binding]:
        """Return the topics that feed the queue, to be compared with what the code wants.

        Raises:
            QueueNotFoundError: the queue is gone.
        """

    @abstractmethod
    def measure_queue(self, queue: Queue) -> QueueDepth:
        """Count the queue's messages."""

    @abstractmethod
    def purge_queue(self, queue: Queue) -> None:
        """Remove all messages of a queue, those in flight included."""

    @abstractmethod
    def delete_queue(self, queue: Queue) -> None:
        """Remove a queue, its messages and its bindings. Idempotent."""

    @abstractmethod
    def delete_topic(self, topic: Topic) -> None:
        """Remove a topic and its bindings. Idempotent."""


def find_topic(driver: MessagingDriver, name: str, *, declare: bool) -> Topic:
    """Return the topic; create it if it does not exist and ``declare`` is true.

    A topic given by ARN must exist and is never created.
    """
    if declare and not (isinstance(name, str) and name.startswith("arn:")):
        return driver.declare_topic(name)
    return driver.get_topic(name)
