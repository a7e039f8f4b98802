"""Publishing events to a topic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Unpack

from melange.drivers.base import MessagingDriver, find_topic
from melange.drivers.declarations import collect
from melange.errors import (
    DriverConnectionError,
    Failure,
    TopicNotFoundError,
)
from melange.events import EventMessage
from melange.messages import (
    NO_HEADERS,
    Message,
    handled_message,
)
from melange.middleware import publish_through
from melange.publishing.destination import Destination, accepted_ids, ids_of, require_text
from melange.publishing.gathering import Gatherer, Gathering, hand_over
from melange.publishing.outgoing import (
    Event,
    IdOf,
    PublishBatchOptions,
    PublishOptions,
    headers_of,
    make_message,
    make_messages,
    message_from,
    messages_from,
    prepared_message,
)


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
        require_text("topic", topic)
        self.topic_name = topic
        self.event_types = event_types
        collect(self)
        self._topic = Destination(
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
            driver.serializer,
            event,
            event_type_name=event_type_name,
            headers=NO_HEADERS if not headers and handled_message.get() is None else headers_of(headers),
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
            is_fifo=self._is_fifo,
        )
        if self._shares_calls:
            message = prepared_message(driver, self.topic_name, message)
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
        from melange.publishing.async_publishing import hand_over_async, take_turn  # noqa: PLC0415 - it brings asyncio

        await take_turn("publish_async")
        driver = self._topic.driver
        message = prepared_message(
            driver, self.topic_name, make_message(driver, event, event_type_name, self._is_fifo, options)
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

        The keywords are those of ``publish``, for each event; ids may be functions of the event. All
        events are checked before the first is sent. On a FIFO topic sending stops at the first failed call.

        Raises:
            EncodeError, InvalidMessageError: as ``publish``; nothing was sent.
            PublishError: some were not accepted: it has the accepted ids, and the other messages with their errors.
        """
        driver = self._topic.driver
        messages = messages_from(
            driver.serializer,
            events,
            event_type_name=event_type_name,
            headers=headers_of(headers),
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
            is_fifo=self._is_fifo,
        )
        return accepted_ids(messages, lambda messages: self._publish(driver, messages))

    async def publish_batch_async(
        self,
        events: Iterable[Event],
        event_type_name: str | None = None,
        **options: Unpack[PublishBatchOptions],
    ) -> list[str]:
        """Publish events as ``publish_batch`` does, without blocking the event loop.

        If the awaiting task is cancelled, each of them may be published or not.
        """
        from melange.publishing.async_publishing import hand_over_async  # noqa: PLC0415

        driver = self._topic.driver
        messages = [
            prepared_message(driver, self.topic_name, message)
            for message in make_messages(driver, events, event_type_name, self._is_fifo, options)
        ]
        if not messages:
            return []
        try:
            failures = await hand_over_async(self._gatherer, driver, messages, 0, "publish_batch_async")
        except DriverConnectionError as error:
            failures = [Failure(message, error) for message in messages]
        return ids_of(messages, failures)

    def _publish(self, driver: MessagingDriver, messages: Sequence[Message]) -> list[Failure[Message]]:
        try:
            topic = self._topic.on(driver)
            if driver.middleware:
                return publish_through(driver.middleware, topic, messages, partial(driver.publish, topic))
            return driver.publish(topic, messages)
        except TopicNotFoundError:
            self._topic.is_gone(driver)
            raise
