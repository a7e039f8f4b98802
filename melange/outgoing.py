"""From events to the messages that are handed to a driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from melange.errors import InvalidMessageError
from melange.events import EventMessage
from melange.identifiers import new_message_id
from melange.messages import JSON_CONTENT_TYPE, NO_HEADERS, RESERVED_HEADER_PREFIX, Message
from melange.serialization import EventSerializer

Event = Mapping[str, Any] | EventMessage

IdOf = Callable[[Event], str | None]
"""Gives each event of a batch an id of its own, or None for the default."""


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
    return Message(  # by position, which costs half of what keywords would
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


def own_headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return a read-only copy: what the caller does to its dict afterwards changes no message.

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
