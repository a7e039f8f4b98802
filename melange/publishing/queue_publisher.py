"""Sending events to one queue, point to point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Unpack

from melange.drivers.base import MessagingDriver
from melange.drivers.declarations import add_to_collection
from melange.errors import Failure, QueueNotFoundError
from melange.messages import Message, Queue
from melange.middleware import publish_through
from melange.publishing.gathering import Gathering
from melange.publishing.outgoing import Destination, Event, IdOf, SendBatchOptions, SendOptions, require_text
from melange.publishing.publisher import Publisher


class QueueMessagePublisher(Publisher[Queue]):
    """Sends events to one queue, point to point.

    The queue must exist: its consumer declares it. It is looked up at the first send, on the driver given, or
    else the one in use then. Thread-safe.
    """

    def __init__(
        self, queue_name: str, driver: MessagingDriver | None = None, *, gather: Gathering | None = None
    ) -> None:
        """Name the queue, or give its ARN. ``gather`` is as for ``ExchangeMessagePublisher``."""
        require_text("queue", queue_name)
        destination = Destination[Queue](
            find=lambda driver: driver.get_queue(queue_name),
            find_again=lambda driver: driver.get_queue(queue_name),
        )
        super().__init__(queue_name, driver, destination, gather)
        self.queue_name = queue_name
        add_to_collection(self)

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
        return self._publish_one(
            event,
            event_type_name,
            headers=headers,
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
            delay_seconds=delay_seconds,
            deliver_at=deliver_at,
        )

    async def send_async(
        self, event: Event, event_type_name: str | None = None, **options: Unpack[SendOptions]
    ) -> str:
        """Send one event as ``send`` does, without blocking the event loop; see ``publish_async``."""
        return await self._publish_one_async("send_async", event, event_type_name, **options)

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
        return self._publish_batch(
            events,
            event_type_name,
            headers=headers,
            message_id=message_id,
            message_group_id=message_group_id,
            message_deduplication_id=message_deduplication_id,
            delay_seconds=delay_seconds,
            deliver_at=deliver_at,
        )

    async def send_batch_async(
        self,
        events: Iterable[Event],
        event_type_name: str | None = None,
        **options: Unpack[SendBatchOptions],
    ) -> list[str]:
        """Send events as ``send_batch`` does, without blocking the event loop; see ``publish_batch_async``."""
        return await self._publish_batch_async("send_batch_async", events, event_type_name, **options)

    def _deliver(
        self, driver: MessagingDriver, messages: Sequence[Message], delay_seconds: int
    ) -> list[Failure[Message]]:
        try:
            queue = self._destination.on(driver)
            if driver.middleware:
                send = partial(driver.send, queue, delay_seconds=delay_seconds)
                return publish_through(driver.middleware, queue, messages, send)
            return driver.send(queue, messages, delay_seconds=delay_seconds)
        except QueueNotFoundError:
            self._destination.is_gone(driver)
            raise
