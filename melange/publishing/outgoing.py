"""Outgoing messages: what they are made of (ids, types, headers, groups, delays), and the topic or queue they go to."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Generic, TypedDict, TypeVar

from melange.clock import Clock
from melange.drivers.base import MessagingDriver
from melange.drivers.declarations import are_collected
from melange.drivers.sqs_rules import MAX_DELAY_SECONDS
from melange.errors import (
    ConfigurationError,
    EncodeError,
    InvalidMessageError,
    InvalidNameError,
    is_number,
)
from melange.events import EventMessage
from melange.messages import (
    JSON_CONTENT_TYPE,
    NO_HEADERS,
    RESERVED_HEADER_PREFIX,
    Message,
    Queue,
    Topic,
    caused_by,
    handled_message,
    new_uuid,
)
from melange.serialization.serializer import EventSerializer

_LONGEST_SECONDS = 10 * 366 * 86_400

DestinationT = TypeVar("DestinationT", bound=Topic | Queue)

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


class IdOptions(TypedDict, total=False):
    """The keywords of all of them, without the delays."""

    headers: Mapping[str, str] | None
    message_id: str | IdOf | None
    message_group_id: str | IdOf | None
    message_deduplication_id: str | IdOf | None


class MessageOptions(IdOptions, total=False):
    """The keywords of all of them."""

    delay_seconds: int
    deliver_at: datetime | None


def message_from(
    serializer: EventSerializer,
    event: Event,
    event_type_name: str | None,
    *,
    headers: Mapping[str, str],
    is_fifo: bool,
    message_id: str | None = None,
    message_group_id: str | None = None,
    message_deduplication_id: str | None = None,
) -> Message:
    """Return the event as a message, with an id and the time; ``headers`` are ``own_headers``."""
    event_type_name, body = serializer.encode(event, event_type_name)
    message_id = new_uuid() if message_id is None else message_id
    if is_fifo and message_deduplication_id is None:
        message_deduplication_id = message_id
    return tuple.__new__(  # in half of the time of Message(...)
        Message,
        (
            message_id,
            body,
            event_type_name,
            headers,
            datetime.now(UTC),
            JSON_CONTENT_TYPE,
            message_group_id,
            message_deduplication_id,
        ),
    )


def messages_from(
    serializer: EventSerializer,
    events: Iterable[Event],
    event_type_name: str | None,
    is_fifo: bool,
    *,
    headers: Mapping[str, str] | None = None,
    message_id: str | IdOf | None = None,
    message_group_id: str | IdOf | None = None,
    message_deduplication_id: str | IdOf | None = None,
) -> list[Message]:
    """Return the events as messages; ids may be functions of the event.

    Raises:
        EncodeError: these are not several events.
    """
    if not isinstance(events, Iterable):
        raise EncodeError(f"a batch takes a list or another iterable of events, not {type(events).__name__}")
    headers = headers_of(headers)
    return [
        message_from(
            serializer,
            event,
            event_type_name,
            headers=headers,
            is_fifo=is_fifo,
            message_id=_id_of(event, message_id),
            message_group_id=_id_of(event, message_group_id),
            message_deduplication_id=_id_of(event, message_deduplication_id),
        )
        for event in events
    ]


def _id_of(event: Event, identifier: str | IdOf | None) -> str | None:
    return identifier(event) if callable(identifier) else identifier


def headers_of(headers: Mapping[str, str] | None) -> Mapping[str, str]:
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
    if headers is not None and not isinstance(headers, Mapping):
        raise InvalidMessageError(f"headers= takes a dict of texts by names, not {type(headers).__name__}")
    if not headers:
        return NO_HEADERS
    for name in headers:
        if isinstance(name, str) and name.lower().startswith(RESERVED_HEADER_PREFIX):
            raise InvalidMessageError(
                f"the header name {name!r} is reserved: names that begin with 'melange-' belong to melange: choose another"
            )
    return MappingProxyType(dict(headers))


def delay_in_queue(driver: MessagingDriver, delay_seconds: int | None, deliver_at: datetime | None) -> int:
    """Return the delay in whole seconds, rounded up, so that a message never comes before its time.

    Raises:
        ConfigurationError: as ``due_time``, or the delay is longer than a queue's longest.
        InvalidMessageError: the time is later than a queue's longest delay from now.
    """
    if isinstance(delay_seconds, int) and delay_seconds > MAX_DELAY_SECONDS:
        raise ConfigurationError(
            f"delay_seconds must be at most {MAX_DELAY_SECONDS}, the longest delay of a queue, not {delay_seconds!r}: use "
            "Outbox.publish(..., delay_seconds=), which has no limit"
        )
    if deliver_at is None:
        return 0 if delay_seconds is None else delay_seconds
    due_at = due_time(delay_seconds or None, deliver_at, driver.clock)
    delay = 0 if due_at is None else math.ceil((due_at - driver.clock.now()).total_seconds())
    if delay > MAX_DELAY_SECONDS:
        raise InvalidMessageError(
            f"deliver_at= is {delay:,} s from now, and a queue delays a message by at most {MAX_DELAY_SECONDS} s: use "
            "Outbox.publish(..., deliver_at=), which has no limit"
        )
    return delay


def due_time(delay_seconds: float | None, deliver_at: datetime | None, clock: Clock) -> datetime | None:
    """Return when a message is due; None for now.

    Raises:
        ConfigurationError: both are given, the delay is not a number from 0 to ten years, or the time is naive.
    """
    if delay_seconds is not None and deliver_at is not None:
        raise ConfigurationError("give delay_seconds= or deliver_at=, not both")
    if delay_seconds is not None:
        if not is_number(delay_seconds) or not 0 <= delay_seconds <= _LONGEST_SECONDS:
            raise ConfigurationError(
                f"delay_seconds must be a number from 0 to {_LONGEST_SECONDS:,}, not {delay_seconds!r}"
            )
        return clock.now() + timedelta(seconds=delay_seconds) if delay_seconds else None
    if deliver_at is None:
        return None
    if not isinstance(deliver_at, datetime) or deliver_at.utcoffset() is None:
        raise ConfigurationError(
            f"deliver_at must be an aware datetime, such as datetime.now(UTC) + timedelta(hours=1), not {deliver_at!r}"
        )
    return deliver_at if deliver_at > clock.now() else None


class _Lookup:
    """A look-up that a thread does for all that need the same at that time; ``error`` is what it raised."""

    error: BaseException | None = None

    def __init__(self, driver: MessagingDriver) -> None:
        self.driver = driver
        self.has_ended = threading.Event()


class Destination(Generic[DestinationT]):
    """A topic or queue, looked up once for the driver in use, and again if the driver changes or it was deleted.

    ``find`` may create it. ``find_again`` must not: a topic that was deleted would come back without subscriptions, and
    everything published to it would be lost.
    """

    def __init__(
        self,
        *,
        find: Callable[[MessagingDriver], DestinationT],
        find_again: Callable[[MessagingDriver], DestinationT],
    ) -> None:
        self._find: Callable[[MessagingDriver], DestinationT] = find
        self._find_again: Callable[[MessagingDriver], DestinationT] = find_again
        self._lock = threading.Lock()
        self._lookup: _Lookup | None = None
        self._found: tuple[MessagingDriver, DestinationT] | None = None
        self._gone_on: MessagingDriver | None = None

    def on(self, driver: MessagingDriver) -> DestinationT:
        found = self._found
        if found is not None and found[0] is driver:
            return found[1]
        if are_collected():
            raise ConfigurationError(
                "nothing can be published while the declarations of the program are collected: name a function that only "
                "creates publishers and consumers"
            )
        while True:
            with self._lock:
                if self._found is not None and self._found[0] is driver:
                    return self._found[1]
                running = self._lookup
                if running is None or running.driver is not driver:
                    lookup = self._lookup = _Lookup(driver)
                    break
            # Those that wait share its result: one after the other, each would wait for all before it in an outage.
            running.has_ended.wait()
            if isinstance(running.error, Exception):
                raise running.error
        return self._look_up(lookup)

    def _look_up(self, lookup: _Lookup) -> DestinationT:
        driver = lookup.driver
        find = self._find_again if self._gone_on is driver else self._find
        try:
            destination = find(driver)
            self._found = (driver, destination)
            return destination
        except BaseException as error:
            lookup.error = error
            raise
        finally:
            if self._lookup is lookup:
                self._lookup = None
            lookup.has_ended.set()

    def is_gone(self, driver: MessagingDriver) -> None:
        self._found, self._gone_on = None, driver


def require_text(kind: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidNameError(kind, name, "give its name as text, or its ARN")
