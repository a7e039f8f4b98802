"""Sending events to one queue, point to point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Unpack

from melange.drivers.base import MessagingDriver
from melange.drivers.declarations import collect
from melange.errors import (
    DriverConnectionError,
    Failure,
    QueueNotFoundError,
)
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
    SendBatchOptions,
    SendOptions,
    delay_in_queue,
    headers_of,
    make_message,
    make_messages,
    message_from,
    messages_from,
    prepared_message,
)


class QueueMessagePublisher:
    """Sends events to one queue, point to point.

    The queue must exist: its consumer declares it. It is looked up at the first send, on the driver given, or
    else the one in use then. Thread-safe.
    """

    def __init__(
        self, queue_name: str, driver: MessagingDriver | None = None, *, gather: Gathering | None = None
    ) -> None:
        """Name the queue, or give its ARN. ``gather`` is as for ``ExchangeMessagePublisher``."""
        require_text("queue", queue_name)
        self.queue_name = queue_name
        collect(self)
        self._queue = Destination(
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
        delay = delay_in_queue(driver, delay_seconds, deliver_at)
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
            message = prepared_message(driver, self.queue_name, message)
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
        from melange.publishing.async_publishing import hand_over_async, take_turn  # noqa: PLC0415 - it brings asyncio

        await take_turn("send_async")
        driver = self._queue.driver
        delay = delay_in_queue(driver, options.get("delay_seconds", 0), options.get("deliver_at"))
        message = prepared_message(
            driver, self.queue_name, make_message(driver, event, event_type_name, self._is_fifo, options)
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
        delay = delay_in_queue(driver, delay_seconds, deliver_at)
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
        return accepted_ids(messages, lambda messages: self._send(driver, messages, delay))

    async def send_batch_async(
        self,
        events: Iterable[Event],
        event_type_name: str | None = None,
        **options: Unpack[SendBatchOptions],
    ) -> list[str]:
        """Send events as ``send_batch`` does, without blocking the event loop; see ``publish_batch_async``."""
        from melange.publishing.async_publishing import hand_over_async  # noqa: PLC0415

        driver = self._queue.driver
        delay = delay_in_queue(driver, options.get("delay_seconds", 0), options.get("deliver_at"))
        messages = [
            prepared_message(driver, self.queue_name, message)
            for message in make_messages(driver, events, event_type_name, self._is_fifo, options)
        ]
        if not messages:
            return []
        try:
            failures = await hand_over_async(self._gatherer, driver, messages, delay, "send_batch_async")
        except DriverConnectionError as error:
            failures = [Failure(message, error) for message in messages]
        return ids_of(messages, failures)

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
