"""Asking another service and waiting for its answer, in a reply queue for each requester.

A requester says that its queue is in use, so that the queues of killed ones can be removed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, overload
from weakref import WeakSet

from melange.drivers.base import BrokerAdministration, MessagingDriver
from melange.drivers.inspection import Inspectable
from melange.drivers.registry import DriverManager
from melange.errors import (
    ConfigurationError,
    DecodeError,
    DriverClosedError,
    DriverError,
    NoReplyError,
    QueueNotFoundError,
    is_number,
)
from melange.events import EventMessage
from melange.messages import Delivery, Message, Queue, new_uuid
from melange.publishing import Event, QueueMessagePublisher
from melange.publishing.outgoing import Destination
from melange.request_reply.replying import IN_REPLY_TO_HEADER, REPLY_QUEUE_PREFIX, REPLY_TO_HEADER

logger = logging.getLogger(__name__)

_REPLY_QUEUE_TAG = "melange-reply-queue"
_ALIVE_TAG = "melange-alive-at"

ALIVE_SECONDS = 600.0
"""How often a requester says that its reply queue is in use."""

_RETENTION_SECONDS = 3_600
_POLL_SECONDS = 20
_PAUSE_SECONDS = 1.0

ReplyT = TypeVar("ReplyT", bound=EventMessage)


class Requester:
    """Sends requests to one queue and waits for the replies. Thread-safe; it is a context manager.

    The first request declares a reply queue, one for each requester: keep one requester for the process. A daemon thread
    receives from it. ``close`` deletes it; after a kill it is left, see ``remove_abandoned_reply_queues``.
    """

    def __init__(self, queue_name: str, driver: MessagingDriver | None = None) -> None:
        """Name the queue of the service that answers, or give its ARN. No call is made yet.

        It uses the driver given, or else the one in use at the first request.
        """
        self._publisher = QueueMessagePublisher(queue_name, driver)
        self._queue_name = queue_name
        self._given_driver = driver
        self._driver: MessagingDriver | None = None
        self._closed = False
        self._begin()
        _requesters.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[Message]] = {}
        self._reply_queue: Queue | None = None
        # Askers that come together in an outage wait for one call, and not for each other's.
        self._reply_queues = Destination[Queue](find=self._start, find_again=self._start)

    @overload
    def ask(self, event: Event, *, timeout_seconds: float, reply: type[ReplyT]) -> ReplyT: ...

    @overload
    def ask(self, event: Event, *, timeout_seconds: float, reply: None = None) -> Any: ...

    def ask(
        self, event: Event, *, timeout_seconds: float, reply: type[EventMessage] | None = None
    ) -> EventMessage | Any:
        """Send a request and return the first reply: an object of the class ``reply``, or else a dict.

        It blocks for at most ``timeout_seconds`` of real time after the sending. The request is not cancelled then: the
        service may still work on it, and its reply is dropped.

        Raises:
            NoReplyError: no reply came in time.
            DecodeError: the reply is not an event of the class ``reply``.
            EncodeError, InvalidMessageError, DriverError: as ``QueueMessagePublisher.send``.
        """
        _check_timeout(timeout_seconds)
        request_id, future = new_uuid(), Future[Message]()
        queue = self._expect(request_id, future)
        try:
            self._publisher.send(event, headers={REPLY_TO_HEADER: queue.name}, message_id=request_id)
            try:
                answer = future.result(timeout_seconds)
            except TimeoutError:
                raise NoReplyError(self._queue_name, timeout_seconds) from None
        finally:
            self._waiting.pop(request_id, None)
        return self._read(answer, reply)

    async def ask_async(
        self, event: Event, *, timeout_seconds: float, reply: type[EventMessage] | None = None
    ) -> Any:
        """Send a request and return the first reply, without blocking the event loop: see ``ask``."""
        _check_timeout(timeout_seconds)
        request_id, future = new_uuid(), Future[Message]()
        try:
            queue = await asyncio.get_running_loop().run_in_executor(None, self._expect, request_id, future)
            await self._publisher.send_async(
                event, headers={REPLY_TO_HEADER: queue.name}, message_id=request_id
            )
            try:
                answer = await asyncio.wait_for(asyncio.wrap_future(future), timeout_seconds)
            except TimeoutError:
                raise NoReplyError(self._queue_name, timeout_seconds) from None
        finally:
            self._waiting.pop(request_id, None)
        return self._read(answer, reply)

    def close(self) -> None:
        """Delete the reply queue; requests that wait fail with ``DriverClosedError``. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            queue, driver, self._reply_queue = self._reply_queue, self._driver, None
        if queue is not None and driver is not None:
            self._delete(driver, queue)
        for future in list(self._waiting.values()):
            with suppress(InvalidStateError):
                future.set_exception(DriverClosedError())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _expect(self, request_id: str, future: Future[Message]) -> Queue:
        """Register a request and return the reply queue; the first one declares it and begins to receive."""
        with self._lock:
            if self._closed:
                raise DriverClosedError
            self._waiting[request_id] = future
        try:
            return self._reply_queues.on(
                self._driver or self._given_driver or DriverManager.instance().get_driver()
            )
        except BaseException:
            self._waiting.pop(request_id, None)
            raise

    def _start(self, driver: MessagingDriver) -> Queue:
        name = f"{REPLY_QUEUE_PREFIX}{new_uuid()[:20]}"
        queue = driver.declare_queue(
            name, retention_seconds=_RETENTION_SECONDS, tags=_tags_of_reply_queue(driver)
        )
        threading.Thread(
            target=self._receive, args=(driver, queue), name="melange-replies", daemon=True
        ).start()
        with self._lock:  # only now, when something receives from it
            self._driver, self._reply_queue = driver, queue
            is_closed = self._closed
        if is_closed:
            self._delete(driver, queue)
            raise DriverClosedError
        return queue

    def _delete(self, driver: MessagingDriver, queue: Queue) -> None:
        driver.end_waits(queue)
        if isinstance(driver, BrokerAdministration):
            driver.delete_queue(queue)

    def _receive(self, driver: MessagingDriver, queue: Queue) -> None:
        alive_at = driver.clock.monotonic()
        while not self._closed:
            try:
                if driver.clock.monotonic() - alive_at >= ALIVE_SECONDS:
                    alive_at = driver.clock.monotonic()
                    driver.declare_queue(queue.name, tags=_tags_of_reply_queue(driver))
                deliveries = driver.receive(
                    queue, 10, min(_POLL_SECONDS, driver.capabilities.max_wait_seconds)
                )
                self._hand_out(deliveries)
                driver.acknowledge(deliveries)
            except DriverClosedError:
                return
            except QueueNotFoundError:
                with self._lock:  # the next request declares another one
                    if self._reply_queue is queue:
                        self._reply_queue = None
                        self._reply_queues.is_gone(driver)
                return
            except Exception as error:  # after any error, askers wait for their replies
                is_ours = not isinstance(error, DriverError)
                logger.warning("replies cannot be received for now: %s", error, exc_info=is_ours)
                _pause(driver)

    def _hand_out(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            request_id = delivery.message.headers.get(IN_REPLY_TO_HEADER, "")
            future = self._waiting.pop(request_id, None)
            if future is None:
                logger.debug("a reply came twice, or too late for request %r", request_id)
            else:
                with suppress(InvalidStateError):  # an asker in an event loop has cancelled it just now
                    future.set_result(delivery.message)

    def _read(self, message: Message, reply: type[EventMessage] | None) -> Any:
        assert self._driver is not None
        serializer = self._driver.serializer
        event_type_name, data = serializer.read(message)
        if reply is not None and event_type_name != reply.event_type_name:
            raise DecodeError(
                f"the reply from queue {self._queue_name} is of type {event_type_name!r}, not {reply.event_type_name!r}"
            )
        return serializer.load(event_type_name, data, reply)


_requesters: WeakSet[Requester] = WeakSet()


def _begin_again() -> None:
    # What receives the replies stays in the parent, and so does the reply queue.
    for requester in list(_requesters):
        requester._begin()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_begin_again)


def _pause(driver: MessagingDriver) -> None:
    condition = threading.Condition()
    with condition:
        driver.clock.wait(condition, _PAUSE_SECONDS)


def _check_timeout(timeout_seconds: float) -> None:
    if not is_number(timeout_seconds) or not 0 < timeout_seconds < math.inf:
        raise ConfigurationError(f"timeout_seconds must be above 0, not {timeout_seconds!r}")


def remove_abandoned_reply_queues(driver: MessagingDriver, *, older_than_seconds: float = 3_600) -> int:
    """Delete the reply queues of requesters that were killed; return their number.

    A requester confirms its queue every ten minutes. Run it once a day. On AWS it needs ``sqs:ListQueues``,
    ``sqs:ListQueueTags``, ``sqs:GetQueueAttributes`` and ``sqs:DeleteQueue``.

    Raises:
        ConfigurationError: the driver cannot list or delete queues, or the time is shorter than twenty minutes.
        DriverError: the broker is unavailable, or a permission is missing.
    """
    if not isinstance(driver, Inspectable) or not isinstance(driver, BrokerAdministration):
        raise ConfigurationError(f"{type(driver).__name__} cannot list and delete queues")
    if not older_than_seconds >= 2 * ALIVE_SECONDS:
        raise ConfigurationError(
            f"older_than_seconds must be at least {2 * ALIVE_SECONDS:g}, not {older_than_seconds!r}: queues in use are "
            f"confirmed every {ALIVE_SECONDS:g} s"
        )
    oldest = driver.clock.now() - timedelta(seconds=older_than_seconds)
    count = 0
    for queue in driver.inspection().tagged_queues(_REPLY_QUEUE_TAG, "true"):
        alive_at = _time_in(queue.tags.get(_ALIVE_TAG, ""))
        if alive_at is not None and alive_at < oldest and queue.name.startswith(REPLY_QUEUE_PREFIX):
            driver.delete_queue(Queue(queue.name, queue.address))
            count += 1
    return count


def _tags_of_reply_queue(driver: MessagingDriver) -> dict[str, str]:
    """Return the tags of a reply queue that is in use now."""
    return {
        _REPLY_QUEUE_TAG: "true",
        _ALIVE_TAG: driver.clock.now().astimezone(UTC).isoformat(timespec="seconds"),
    }


def _time_in(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None
