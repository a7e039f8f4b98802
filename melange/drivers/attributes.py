"""How a message's id, type, time and headers become at most ten text attributes, and back.

SNS and SQS carry at most ten attributes with a message (with raw delivery SNS drops a message that has
more), and refuse empty values. The in-memory driver counts sizes by the same form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from melange.messages import JSON_CONTENT_TYPE, NO_HEADERS, Message

MAX_ATTRIBUTES = 10

MESSAGE_ID_ATTRIBUTE = "melange-message-id"
EVENT_TYPE_ATTRIBUTE = "melange-event-type"
PUBLISHED_AT_ATTRIBUTE = "melange-published-at"
CONTENT_TYPE_ATTRIBUTE = "melange-content-type"
FOLDED_HEADERS_ATTRIBUTE = "melange-headers"
"""A JSON object with the headers that did not fit or are empty."""

OWN_ATTRIBUTES = frozenset(
    {
        MESSAGE_ID_ATTRIBUTE,
        EVENT_TYPE_ATTRIBUTE,
        PUBLISHED_AT_ATTRIBUTE,
        CONTENT_TYPE_ATTRIBUTE,
        FOLDED_HEADERS_ATTRIBUTE,
    }
)


def attributes_of(message: Message) -> dict[str, str]:
    """Return the message's attributes, at most ten, none of them empty."""
    attributes = {
        MESSAGE_ID_ATTRIBUTE: message.message_id,
        CONTENT_TYPE_ATTRIBUTE: message.content_type,
    }
    if message.event_type_name:
        attributes[EVENT_TYPE_ATTRIBUTE] = message.event_type_name
    if message.published_at:
        attributes[PUBLISHED_AT_ATTRIBUTE] = message.published_at.isoformat()
    if message.headers:
        attributes.update(_fold(message.headers, room=MAX_ATTRIBUTES - len(attributes)))
    return attributes


def message_from_attributes(
    body: str,
    attributes: Mapping[str, str],
    *,
    fallback_message_id: str,
    message_group_id: str | None = None,
    message_deduplication_id: str | None = None,
) -> Message:
    """Return the message that ``attributes_of`` described; somebody else's attributes are headers."""
    return Message(
        message_id=attributes.get(MESSAGE_ID_ATTRIBUTE) or fallback_message_id,
        body=body,
        event_type_name=attributes.get(EVENT_TYPE_ATTRIBUTE),
        headers=_unfold(attributes),
        published_at=_parse_time(attributes.get(PUBLISHED_AT_ATTRIBUTE)),
        content_type=attributes.get(CONTENT_TYPE_ATTRIBUTE, JSON_CONTENT_TYPE),
        message_group_id=message_group_id,
        message_deduplication_id=message_deduplication_id,
    )


def _fold(headers: Mapping[str, str], room: int) -> dict[str, str]:
    empty = {name: value for name, value in headers.items() if not value}
    filled = {name: value for name, value in headers.items() if value}
    if not empty and len(filled) <= room:
        return filled
    kept = dict(list(filled.items())[: room - 1])
    folded = {name: value for name, value in headers.items() if name not in kept}
    return {**kept, FOLDED_HEADERS_ATTRIBUTE: json.dumps(folded, separators=(",", ":"))}


def _unfold(attributes: Mapping[str, str]) -> Mapping[str, str]:
    headers = {name: value for name, value in attributes.items() if name not in OWN_ATTRIBUTES}
    folded = attributes.get(FOLDED_HEADERS_ATTRIBUTE)
    if folded:
        headers.update(_parse_folded(folded))
    return MappingProxyType(headers) if headers else NO_HEADERS


def _parse_folded(text: str) -> Mapping[str, str]:
    # Anyone may send an attribute of this name: what is not ours is passed on as it came.
    try:
        folded = json.loads(text)
    except (ValueError, RecursionError):
        return {FOLDED_HEADERS_ATTRIBUTE: text}
    if not isinstance(folded, dict) or not all(isinstance(value, str) for value in folded.values()):
        return {FOLDED_HEADERS_ATTRIBUTE: text}
    return folded


def _parse_time(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
