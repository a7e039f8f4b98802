"""Messages made of events, ready for the broker: ids, types, headers, groups, delays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TypedDict

from melange.drivers.base import MessagingDriver
from melange.drivers.sqs_rules import MAX_DELAY_SECONDS
from melange.errors import (
    ConfigurationError,
    EncodeError,
    InvalidMessageError,
)
from melange.events import EventMessage
from melange.messages import (
    JSON_CONTENT_TYPE,
    NO_HEADERS,
    RESERVED_HEADER_PREFIX,
    Message,
    caused_by,
    handled_message,
    new_uuid,
)
from melange.middleware import prepared
from melange.publishing.delays import delay_of
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


def prepared_message(driver: MessagingDriver, name: str, message: Message) -> Message:
    """Return a message that another thread publishes."""
    return prepared(driver.middleware, name, message) if driver.middleware else message


def make_message(
    driver: MessagingDriver,
    event: Event,
    event_type_name: str | None,
    is_fifo: bool,
    options: PublishOptions,
) -> Message:
    return message_from(
        driver.serializer,
        event,
        event_type_name=event_type_name,
        headers=headers_of(options.get("headers")),
        message_id=options.get("message_id"),
        message_group_id=options.get("message_group_id"),
        message_deduplication_id=options.get("message_deduplication_id"),
        is_fifo=is_fifo,
    )


def make_messages(
    driver: MessagingDriver,
    events: Iterable[Event],
    event_type_name: str | None,
    is_fifo: bool,
    options: PublishBatchOptions,
) -> list[Message]:
    return messages_from(
        driver.serializer,
        events,
        event_type_name=event_type_name,
        headers=headers_of(options.get("headers")),
        message_id=options.get("message_id"),
        message_group_id=options.get("message_group_id"),
        message_deduplication_id=options.get("message_deduplication_id"),
        is_fifo=is_fifo,
    )


def delay_in_queue(driver: MessagingDriver, delay_seconds: int, deliver_at: datetime | None) -> int:
    if isinstance(delay_seconds, int) and delay_seconds > MAX_DELAY_SECONDS:
        raise ConfigurationError(
            f"delay_seconds must be at most {MAX_DELAY_SECONDS}, the longest delay of a queue, not {delay_seconds!r}: use "
            "Outbox.publish(..., delay_seconds=), which has no limit"
        )
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
    *,
    event_type_name: str | None,
    headers: Mapping[str, str],
    message_id: IdOf | None,
    message_group_id: str | IdOf | None,
    message_deduplication_id: IdOf | None,
    is_fifo: bool,
) -> list[Message]:
    """Return the events as messages; ids may be functions of the event.

    Raises:
        EncodeError: these are not several events.
    """
    if not isinstance(events, Iterable):
        raise EncodeError(f"a batch takes a list or another iterable of events, not {type(events).__name__}")
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
