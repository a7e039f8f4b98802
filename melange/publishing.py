"""Publishing events to topics, and sending them to queues."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from melange.correlation import caused_by
from melange.declarations import are_collected, collect
from melange.delays import delay_of
from melange.drivers.base import MessagingDriver, find_topic
from melange.drivers.registry import DriverManager
from melange.drivers.sqs_rules import MAX_DELAY_SECONDS
from melange.errors import (
    ConfigurationError,
    DriverConnectionError,
    Failure,
    InvalidMessageError,
    InvalidNameError,
    PublishError,
    QueueNotFoundError,
    TopicNotFoundError,
)
from melange.events import EventMessage
from melange.gathering import Gatherer, Gathering, hand_over
from melange.messages import (
    JSON_CONTENT_TYPE,
    NO_HEADERS,
    RESERVED_HEADER_PREFIX,
    Message,
    Queue,
    Topic,
    handled_message,
    new_message_id,
)
from melange.middleware import prepared, publish_through
from melange.serialization.serializer import EventSerializer

Event = Mapping[str, Any] | EventMessage

IdOf = Callable[[Event], str | None]
"""Returns an id for each event of a batch, or None for the default."""


class PublishOptions(TypedDict, total=False):
    """The keywords of ``ExchangeMessagePublisher.publish``."""

    headers: Mapping[str, str] | None
    message_id: str | None
    message_group_id: str | None
    message_deduplication_id: str | None


class PublishBatchOptions(TypedDict, total=False):
    """The keywords of ``ExchangeMessagePublisher.publish_batch``."""

    headers: Mapping[str, str] | None
    message_id: IdOf | None
    message_group_id: str | IdOf | None
    message_deduplication_id: IdOf | None


class SendOptions(PublishOptions, total=False):
    """The keywords of ``QueueMessagePublisher.send``."""

    delay_seconds: int
    deliver_at: datetime | None


class SendBatchOptions(PublishBatchOptions, total=False):
    """The keywords of ``QueueMessagePublisher.send_batch``."""

    delay_seconds: int
    deliver_at: datetime | None


class ExchangeMessagePublisher:
    """Publishes events to one topic; every queue bound to it gets its own copy.

    The topic is declared at the first publish, on the driver given, or else the one in use then. Thread-safe.
    """

    def __init__(
        self,
        topic: str,
        driver: MessagingDriver | None = None,
        *,
        declare: bool = True,
        event_types: Sequence[str | type[EventMessage]] | None = None,
        gather: Gathering | None = None,
    ) -> None:
        """Name the topic: ``*.fifo`` for a FIFO topic; an ARN names an existing one.

        ``declare=False`` only looks it up, for roles that may not create topics. ``event_types`` says what is published,
        for ``melange topology``, which then finds filters and listeners of other types; publishing does not check it.
        ``gather`` lets the ``publish`` of several threads share calls to the broker; ``publish_async`` does so always.
        """
        _require_text("topic", topic)
        self.topic_name = topic
        self.event_types = event_types
        collect(self)
        self._topic = _Destination(
            driver,
            find=lambda driver: find_topic(driver, topic, declare=declare),
            find_again=lambda driver: find_topic(driver, topic, declare=False),
        )
        self._is_fifo = topic.endswith(".fifo")
        self._shares_calls = gather is not None
        self._gatherer = Gatherer(
            lambda driver, messages, _: self._publish(driver, messages),
            gather or Gathering(),
            is_fifo=self._is_fifo,
        )

    def publish(
        self,
        event: Event,
        event_type_name: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        message_group_id: str | None = None,
        message_deduplication_id: str | None = None,
    ) -> str:
        """Publish one event; return its message id when the broker has accepted it.

        Args:
            event: an ``EventMessage``, or a dict with its type inside as ``event_type_name`` or given as
                the argument. It is never changed.
            event_type_name: the type of a dict that does not say it.
            headers: texts that travel beside the event. Names beginning with ``melange-`` are reserved.
                ``correlation-id`` and ``causation-id`` are added if a message is being handled.
            message_id: the id to recognise the message by; a new UUID by default.
            message_group_id: within it a FIFO topic keeps the order, and needs it; on a standard
                topic it is a fairness key and implies no order.
            message_deduplication_id: a FIFO topic drops what comes again with the same within five minutes; the
                message id by default.

        Raises:
            EncodeError: the event cannot be written as JSON; nothing was sent.
            InvalidMessageError: the broker would refuse it (too large, a group id missing ...); nothing was sent.
            TopicNotFoundError: the topic was deleted. It is not created again, since it would have no subscriptions:
                publishing fails until it exists again.
            DriverError: the broker is unavailable or refused it.
        """
        driver = self._topic.driver
        message = message_from(
            driver.serializer or EventSerializer.instance(),
            event,
            event_type_name=event_type_name,
            headers=NO_HEADERS if not headers and handled_message.get() is None else _headers(headers),
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
            is_fifo=self._is_fifo,
        )
        if self._shares_calls:
            message = _prepared(driver, self.topic_name, message)
            failures = hand_over(self._gatherer, driver, (message,), 0)
        else:
            failures = self._publish(driver, (message,))
        if failures:
            raise failures[0].error
        return message.message_id

    async def publish_async(
        self, event: Event, event_type_name: str | None = None, **options: Unpack[PublishOptions]
    ) -> str:
        """Publish one event without blocking the event loop; return its message id when the broker has accepted it.

        As ``publish``. Events that are published at about the same time travel together, ten in a call; each caller gets
        its own id or error. If the awaiting task is cancelled, the event may be published or not, as after a lost answer.

        Raises:
            ConfigurationError: no event loop of asyncio runs here.
        """
        from melange.asynchronous import hand_over_async, take_turn  # noqa: PLC0415 - it brings asyncio

        await take_turn("publish_async")
        driver = self._topic.driver
        message = _prepared(
            driver, self.topic_name, _message(driver, event, event_type_name, self._is_fifo, options)
        )
        failures = await hand_over_async(self._gatherer, driver, (message,), 0, "publish_async")
        if failures:
            raise failures[0].error
        return message.message_id

    def publish_batch(
        self,
        events: Iterable[Event],
        event_type_name: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: IdOf | None = None,
        message_group_id: str | IdOf | None = None,
        message_deduplication_id: IdOf | None = None,
    ) -> list[str]:
        """Publish events in as few network calls as the broker allows; return their message ids in order.

        The keywords are those of ``publish`` without endy event; ids may be functions of the event. All
        events are checked before the first is sent. On a FIFO topic sending stops at the first failed call.

        Raises:
            EncodeError, InvalidMessageError: as ``publish``; nothing was sent.
            PublishError: some were not accepted: it has the accepted ids, and the other messages with their errors.
        """
        driver = self._topic.driver
        messages = messages_from(
            driver.serializer or EventSerializer.instance(),
            events,
            event_type_name=event_type_name,
            headers=_headers(headers),
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
            is_fifo=self._is_fifo,
        )
        return _accepted_ids(messages, lambda messages: self._publish(driver, messages))

    async def publish_batch_async(
        self,
        events: Iterable[Event],
        event_type_name: str | None = None,
        **options: Unpack[PublishBatchOptions],
    ) -> list[str]:
        """Publish events as ``publish_batch`` does, without blocking the event loop.

        If the awaiting task is cancelled, each of them may be published or not.
        """
        from melange.asynchronous import hand_over_async  # noqa: PLC0415

        driver = self._topic.driver
        messages = [
            _prepared(driver, self.topic_name, message)
            for message in _messages(driver, events, event_type_name, self._is_fifo, options)
        ]
        if not messages:
            return []
        try:
            failures = await hand_over_async(self._gatherer, driver, messages, 0, "publish_batch_async")
        except DriverConnectionError as error:
            failures = [Failure(message, error) for message in messages]
        return _ids_of(messages, failures)

    def _publish(self, driver: MessagingDriver, messages: Sequence[Message]) -> list[Failure[Message]]:
        try:
            topic = self._topic.on(driver)
            if driver.middleware:
                return publish_through(driver.middleware, topic, messages, partial(driver.publish, topic))
            return driver.publish(topic, messages)
        except TopicNotFoundError:
            self._topic.is_gone(driver)
            raise


class QueueMessagePublisher:
    """Sends events to one queue, point to point.

    The queue must exist: its consumer declares it. It is looked up at the first send, on the driver given, or
    else the one in use then. Thread-safe.
    """

    def __init__(
        self, queue_name: str, driver: MessagingDriver | None = None, *, gather: Gathering | None = None
    ) -> None:
        """Name the queue, or give its ARN. ``gather`` is as for ``ExchangeMessagePublisher``."""
        _require_text("queue", queue_name)
        self.queue_name = queue_name
        collect(self)
        self._queue = _Destination(
            driver,
            find=lambda driver: driver.get_queue(queue_name),
            find_again=lambda driver: driver.get_queue(queue_name),
        )
        self._is_fifo = queue_name.endswith(".fifo")
        self._shares_calls = gather is not None
        self._gatherer = Gatherer(self._send, gather or Gathering(), is_fifo=self._is_fifo)

    def send(
        self,
        event: Event,
        event_type_name: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        message_group_id: str | None = None,
        message_deduplication_id: str | None = None,
        delay_seconds: int = 0,
        deliver_at: datetime | None = None,
    ) -> str:
        """Send one event; return its message id when the broker has accepted it.

        ``delay_seconds``, up to 900, is how long it stays invisible first, or ``deliver_at``, aware, is when it becomes
        visible at the earliest. FIFO queues support neither, and topics of SNS do not: for those and for longer delays see
        ``Outbox.publish``. For the other arguments and errors see ``ExchangeMessagePublisher.publish``.

        Raises:
            QueueNotFoundError: the queue does not exist.
        """
        driver = self._queue.driver
        delay = _delay(driver, delay_seconds, deliver_at)
        message = message_from(
            driver.serializer or EventSerializer.instance(),
            event,
            event_type_name=event_type_name,
            headers=NO_HEADERS if not headers and handled_message.get() is None else _headers(headers),
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
            is_fifo=self._is_fifo,
        )
        if self._shares_calls:
            message = _prepared(driver, self.queue_name, message)
            failures = hand_over(self._gatherer, driver, (message,), delay)
        else:
            failures = self._send(driver, (message,), delay)
        if failures:
            raise failures[0].error
        return message.message_id

    async def send_async(
        self, event: Event, event_type_name: str | None = None, **options: Unpack[SendOptions]
    ) -> str:
        """Send one event as ``send`` does, without blocking the event loop; see ``publish_async``."""
        from melange.asynchronous import hand_over_async, take_turn  # noqa: PLC0415 - it brings asyncio

        await take_turn("send_async")
        driver = self._queue.driver
        delay = _delay(driver, options.get("delay_seconds", 0), options.get("deliver_at"))
        message = _prepared(
            driver, self.queue_name, _message(driver, event, event_type_name, self._is_fifo, options)
        )
        failures = await hand_over_async(self._gatherer, driver, (message,), delay, "send_async")
        if failures:
            raise failures[0].error
        return message.message_id

    def send_batch(
        self,
        events: Iterable[Event],
        event_type_name: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: IdOf | None = None,
        message_group_id: str | IdOf | None = None,
        message_deduplication_id: IdOf | None = None,
        delay_seconds: int = 0,
        deliver_at: datetime | None = None,
    ) -> list[str]:
        """Send events in as few network calls as the broker allows; return their message ids in order.

        As ``ExchangeMessagePublisher.publish_batch``, with the ``delay_seconds`` or ``deliver_at`` of ``send`` for all.
        """
        driver = self._queue.driver
        delay = _delay(driver, delay_seconds, deliver_at)
        messages = messages_from(
            driver.serializer or EventSerializer.instance(),
            events,
            event_type_name=event_type_name,
            headers=_headers(headers),
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
            is_fifo=self._is_fifo,
        )
        return _accepted_ids(messages, lambda messages: self._send(driver, messages, delay))

    async def send_batch_async(
        self,
        events: Iterable[Event],
        event_type_name: str | None = None,
        **options: Unpack[SendBatchOptions],
    ) -> list[str]:
        """Send events as ``send_batch`` does, without blocking the event loop; see ``publish_batch_async``."""
        from melange.asynchronous import hand_over_async  # noqa: PLC0415

        driver = self._queue.driver
        delay = _delay(driver, options.get("delay_seconds", 0), options.get("deliver_at"))
        messages = [
            _prepared(driver, self.queue_name, message)
            for message in _messages(driver, events, event_type_name, self._is_fifo, options)
        ]
        if not messages:
            return []
        try:
            failures = await hand_over_async(self._gatherer, driver, messages, delay, "send_batch_async")
        except DriverConnectionError as error:
            failures = [Failure(message, error) for message in messages]
        return _ids_of(messages, failures)

    def _send(
        self, driver: MessagingDriver, messages: Sequence[Message], delay_seconds: int
    ) -> list[Failure[Message]]:
        try:
            queue = self._queue.on(driver)
            if driver.middleware:
                send = partial(driver.send, queue, delay_seconds=delay_seconds)
                return publish_through(driver.middleware, queue, messages, send)
            return driver.send(queue, messages, delay_seconds=delay_seconds)
        except QueueNotFoundError:
            self._queue.is_gone(driver)
            raise


def _prepared(driver: MessagingDriver, name: str, message: Message) -> Message:
    """Return a message that another thread publishes."""
    return prepared(driver.middleware, name, message) if driver.middleware else message


def _message(
    driver: MessagingDriver,
    event: Event,
    event_type_name: str | None,
    is_fifo: bool,
    options: PublishOptions,
) -> Message:
    return message_from(
        driver.serializer or EventSerializer.instance(),
        event,
        event_type_name=event_type_name,
        headers=_headers(options.get("headers")),
        message_id=options.get("message_id"),
        message_group_id=options.get("message_group_id"),
        message_deduplication_id=options.get("message_deduplication_id"),
        is_fifo=is_fifo,
    )


def _messages(
    driver: MessagingDriver,
    events: Iterable[Event],
    event_type_name: str | None,
    is_fifo: bool,
    options: PublishBatchOptions,
) -> list[Message]:
    return messages_from(
        driver.serializer or EventSerializer.instance(),
        events,
        event_type_name=event_type_name,
        headers=_headers(options.get("headers")),
        message_id=options.get("message_id"),
        message_group_id=options.get("message_group_id"),
        message_deduplication_id=options.get("message_deduplication_id"),
        is_fifo=is_fifo,
    )


def _delay(driver: MessagingDriver, delay_seconds: int, deliver_at: datetime | None) -> int:
    delay = delay_of(delay_seconds, deliver_at, driver.clock)
    if deliver_at is not None and delay > MAX_DELAY_SECONDS:
        raise InvalidMessageError(
            f"deliver_at= is {delay:,} s from now, and a queue delays a message by at most {MAX_DELAY_SECONDS} s: use "
            "Outbox.publish(..., deliver_at=), which has no limit"
        )
    return delay


def message_from(
    serializer: EventSerializer,
    event: Event,
    *,
    event_type_name: str | None,
    headers: Mapping[str, str],
    message_id: str | None,
    message_group_id: str | None,
    message_deduplication_id: str | None,
    is_fifo: bool,
) -> Message:
    """Return the event as a message, with an id and the time; ``headers`` are ``own_headers``."""
    event_type_name, body = serializer.encode(event, event_type_name)
    message_id = new_message_id() if message_id is None else message_id
    if is_fifo and message_deduplication_id is None:
        message_deduplication_id = message_id
    return Message(  # by position, in half of the time of keywords
        message_id,
        body,
        event_type_name,
        headers,
        datetime.now(UTC),
        JSON_CONTENT_TYPE,
        message_group_id,
        message_deduplication_id,
    )


def messages_from(
    serializer: EventSerializer,
    events: Iterable[Event],
    *,
    event_type_name: str | None,
    headers: Mapping[str, str],
    message_id: IdOf | None,
    message_group_id: str | IdOf | None,
    message_deduplication_id: IdOf | None,
    is_fifo: bool,
) -> list[Message]:
    """Return the events as messages; ids may be functions of the event."""
    return [
        message_from(
            serializer,
            event,
            event_type_name=event_type_name,
            headers=headers,
            message_id=_id_of(event, message_id),
            message_group_id=_id_of(event, message_group_id),
            message_deduplication_id=_id_of(event, message_deduplication_id),
            is_fifo=is_fifo,
        )
        for event in events
    ]


def _id_of(event: Event, identifier: str | IdOf | None) -> str | None:
    return identifier(event) if callable(identifier) else identifier


def _headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the caller's headers, and those that name the message that is being handled."""
    cause = handled_message.get()
    if cause is None:
        return own_headers(headers) if headers else NO_HEADERS
    return MappingProxyType({**caused_by(cause), **own_headers(headers)})


def own_headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return a read-only copy, so that later changes of the caller's dict do not change a message.

    Raises:
        InvalidMessageError: a name that is reserved for melange.
    """
    if not headers:
        return NO_HEADERS
    for name in headers:
        if isinstance(name, str) and name.lower().startswith(RESERVED_HEADER_PREFIX):
            raise InvalidMessageError(
                f"the header name {name!r} is reserved: names that begin with 'melange-' are ours"
            )
    return MappingProxyType(dict(headers))


DestinationT = TypeVar("DestinationT", Topic, Queue)


class _Destination(Generic[DestinationT]):
    """A topic or queue, looked up once for the driver in use, and again if the driver changes or it was deleted.

    ``find`` may create it. ``find_again`` must not: a topic that was deleted would come back without subscriptions, and
    everything published to it would be lost.
    """

    def __init__(
        self,
        driver: MessagingDriver | None,
        *,
        find: Callable[[MessagingDriver], DestinationT],
        find_again: Callable[[MessagingDriver], DestinationT],
    ) -> None:
        self._driver = driver
        self._find: Callable[[MessagingDriver], DestinationT] = find
        self._find_again: Callable[[MessagingDriver], DestinationT] = find_again
        self._lock = threading.Lock()
        self._found: tuple[MessagingDriver, DestinationT] | None = None
        self._gone_on: MessagingDriver | None = None

    @property
    def driver(self) -> MessagingDriver:
        return self._driver or DriverManager.instance().get_driver()

    def on(self, driver: MessagingDriver) -> DestinationT:
        found = self._found
        if found is not None and found[0] is driver:
            return found[1]
        if are_collected():
            raise ConfigurationError(
                "nothing can be published while the declarations of the program are collected: name a function that only "
                "creates publishers and consumers"
            )
        with self._lock:  # so that many threads declare it once
            found = self._found
            if found is None or found[0] is not driver:
                find = self._find_again if self._gone_on is driver else self._find
                found = self._found = (driver, find(driver))
            return found[1]

    def is_gone(self, driver: MessagingDriver) -> None:
        self._found, self._gone_on = None, driver


def _require_text(kind: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidNameError(kind, name, "give its name as text, or its ARN")


def _accepted_ids(
    messages: Sequence[Message], deliver: Callable[[Sequence[Message]], list[Failure[Message]]]
) -> list[str]:
    """Send the messages and return their ids, or raise one ``PublishError`` with the failed ones."""
    if not messages:
        return []
    try:
        failures = deliver(messages)
    except DriverConnectionError as error:
        failures = [Failure(message, error) for message in messages]
    return _ids_of(messages, failures)


def _ids_of(messages: Sequence[Message], failures: list[Failure[Message]]) -> list[str]:
    """Return the ids, or raise one ``PublishError`` with the failed messages."""
    if not failures:
        return [message.message_id for message in messages]
    failed = {failure.item.message_id for failure in failures}
    succeeded = [message.message_id for message in messages if message.message_id not in failed]
    raise PublishError(succeeded, failures) from failures[0].error
