"""Publishing events to a topic, and what publishers of topics and queues have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Generic, Unpack

from melange.drivers.base import MessagingDriver, find_topic
from melange.drivers.declarations import add_to_collection
from melange.drivers.registry import DriverManager, require_driver
from melange.errors import (
    DriverConnectionError,
    Failure,
    PublishError,
    TopicNotFoundError,
)
from melange.events import EventMessage
from melange.messages import NO_HEADERS, Message, Topic, handled_message
from melange.middleware import prepared, publish_through
from melange.publishing.gathering import Gatherer, Gathering, hand_over
from melange.publishing.outgoing import (
    Destination,
    DestinationT,
    Event,
    IdOf,
    IdOptions,
    MessageOptions,
    PublishBatchOptions,
    PublishOptions,
    delay_in_queue,
    headers_of,
    message_from,
    messages_from,
    require_text,
)


class Publisher(ABC, Generic[DestinationT]):
    """What publishers to topics and to queues have in common: events become messages, and callers may share calls."""

    def __init__(
        self,
        name: str,
        driver: MessagingDriver | None,
        destination: Destination[DestinationT],
        gather: Gathering | None,
    ) -> None:
        require_driver(driver)
        self._name = name
        self._driver = driver
        self._destination = destination
        self._is_fifo = name.endswith(".fifo")
        self._shares_calls = gather is not None
        self._gatherer = Gatherer(self._deliver, gather or Gathering(), is_fifo=self._is_fifo)

    @abstractmethod
    def _deliver(
        self, driver: MessagingDriver, messages: Sequence[Message], delay_seconds: int
    ) -> list[Failure[Message]]:
        """Give messages to the broker, through the middleware; return the failed ones."""

    def _publish_one(
        self,
        event: Event,
        event_type_name: str | None,
        *,
        headers: Mapping[str, str] | None,
        message_id: str | None,
        message_group_id: str | None,
        message_deduplication_id: str | None,
        delay_seconds: int | None = None,
        deliver_at: datetime | None = None,
    ) -> str:
        driver = self._driver or DriverManager.instance().get_driver()
        has_delay = delay_seconds is not None or deliver_at is not None
        delay = delay_in_queue(driver, delay_seconds, deliver_at) if has_delay else 0
        message = message_from(
            driver.serializer,
            event,
            event_type_name,
            headers=NO_HEADERS if not headers and handled_message.get() is None else headers_of(headers),
            is_fifo=self._is_fifo,
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
        )
        if self._shares_calls:
            message = prepared(driver.middleware, self._name, message)
            failures = hand_over(self._gatherer, driver, (message,), delay)
        else:
            failures = self._deliver(driver, (message,), delay)
        if failures:
            raise failures[0].error
        return message.message_id

    async def _publish_one_async(
        self, what: str, event: Event, event_type_name: str | None, **options: Unpack[MessageOptions]
    ) -> str:
        from melange.publishing.async_publishing import take_turn  # noqa: PLC0415 - it brings asyncio

        await take_turn(what)
        (message,), failures = await self._hand_over_async(what, (event,), event_type_name, **options)
        if failures:
            raise failures[0].error
        return message.message_id

    def _publish_batch(
        self, events: Iterable[Event], event_type_name: str | None, **options: Unpack[MessageOptions]
    ) -> list[str]:
        driver, messages, delay = self._made(events, event_type_name, **options)
        if not messages:
            return []
        try:
            failures = self._deliver(driver, messages, delay)
        except DriverConnectionError as error:
            failures = [Failure(message, error) for message in messages]
        return _ids_of(messages, failures)

    async def _publish_batch_async(
        self,
        what: str,
        events: Iterable[Event],
        event_type_name: str | None,
        **options: Unpack[MessageOptions],
    ) -> list[str]:
        return _ids_of(*await self._hand_over_async(what, events, event_type_name, **options))

    async def _hand_over_async(
        self,
        what: str,
        events: Iterable[Event],
        event_type_name: str | None,
        **options: Unpack[MessageOptions],
    ) -> tuple[list[Message], list[Failure[Message]]]:
        """Return the messages, and the failed ones."""
        from melange.publishing.async_publishing import hand_over_async  # noqa: PLC0415 - it brings asyncio

        driver, messages, delay = self._made(events, event_type_name, **options)
        messages = [prepared(driver.middleware, self._name, message) for message in messages]
        if not messages:
            return [], []
        try:
            return messages, await hand_over_async(self._gatherer, driver, messages, delay, what)
        except DriverConnectionError as error:
            return messages, [Failure(message, error) for message in messages]

    def _made(
        self,
        events: Iterable[Event],
        event_type_name: str | None,
        delay_seconds: int = 0,
        deliver_at: datetime | None = None,
        **options: Unpack[IdOptions],
    ) -> tuple[MessagingDriver, list[Message], int]:
        """Return the driver, the messages of the events, and their delay in seconds."""
        driver = self._driver or DriverManager.instance().get_driver()
        delay = delay_in_queue(driver, delay_seconds, deliver_at)
        messages = messages_from(driver.serializer, events, event_type_name, self._is_fifo, **options)
        return driver, messages, delay


class ExchangeMessagePublisher(Publisher[Topic]):
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
        require_text("topic", topic)
        destination = Destination[Topic](
            find=lambda driver: find_topic(driver, topic, declare=declare),
            find_again=lambda driver: find_topic(driver, topic, declare=False),
        )
        super().__init__(topic, driver, destination, gather)
        self.topic_name = topic
        self.event_types = event_types
        add_to_collection(self)

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
        return self._publish_one(
            event,
            event_type_name,
            headers=headers,
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
        )

    async def publish_async(
        self, event: Event, event_type_name: str | None = None, **options: Unpack[PublishOptions]
    ) -> str:
        """Publish one event without blocking the event loop; return its message id when the broker has accepted it.

        As ``publish``. Events that are published at about the same time travel together, ten in a call; each caller gets
        its own id or error. If the awaiting task is cancelled, the event may be published or not, as after a lost answer.

        Raises:
            ConfigurationError: no event loop of asyncio runs here.
        """
        return await self._publish_one_async("publish_async", event, event_type_name, **options)

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

        The keywords are those of ``publish``, for each event; ids may be functions of the event. All
        events are checked before the first is sent. To a standard topic several calls may be open at a time. On a FIFO topic
        sending stops at the first failed call, and the events of a group arrive in their order, unless the broker accepts only
        a part of a call.

        Raises:
            EncodeError, InvalidMessageError: as ``publish``; nothing was sent.
            PublishError: some were not accepted: it has the accepted ids, and the other messages with their errors.
        """
        return self._publish_batch(
            events,
            event_type_name,
            headers=headers,
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
        )

    async def publish_batch_async(
        self,
        events: Iterable[Event],
        event_type_name: str | None = None,
        **options: Unpack[PublishBatchOptions],
    ) -> list[str]:
        """Publish events as ``publish_batch`` does, without blocking the event loop.

        If the awaiting task is cancelled, each of them may be published or not.
        """
        return await self._publish_batch_async("publish_batch_async", events, event_type_name, **options)

    def _deliver(
        self, driver: MessagingDriver, messages: Sequence[Message], delay_seconds: int
    ) -> list[Failure[Message]]:
        try:
            topic = self._destination.on(driver)
            if driver.middleware:
                return publish_through(driver.middleware, topic, messages, partial(driver.publish, topic))
            return driver.publish(topic, messages)
        except TopicNotFoundError:
            self._destination.is_gone(driver)
            raise


def _ids_of(messages: Sequence[Message], failures: list[Failure[Message]]) -> list[str]:
    """Return the ids, or raise one ``PublishError`` with the failed messages."""
    if not failures:
        return [message.message_id for message in messages]
    failed = {failure.item.message_id for failure in failures}
    succeeded = [message.message_id for message in messages if message.message_id not in failed]
    raise PublishError(succeeded, failures) from failures[0].error
