"""How a message's id, type, time and headers become at most ten text attributes, and back.

SNS and SQS carry at most ten attributes with a message (with raw delivery SNS drops a message that has
more), and refuse empty values. The in-memory driver counts sizes by the same form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TypeGuard

from melange.messages import JSON_CONTENT_TYPE, NO_HEADERS, Message

MAX_ATTRIBUTES = 10
MAX_NAME_CHARACTERS = 256

IDENTIFIER = re.compile(r"[A-Za-z0-9!-/:-@\[-`{-~]{1,128}")
"""What message, group and deduplication ids may be."""

FORBIDDEN_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""What neither a body nor an attribute may contain: all but #x9, #xA, #xD, and #x20 to #xD7FF, #xE000 to #xFFFD, and
#x10000 to #x10FFFF."""

ATTRIBUTE_NAME = re.compile(
    r"(?!.*\.\.)(?!(?:aws|amazon)\.)[a-z0-9_-](?:[a-z0-9_.-]{0,254}[a-z0-9_-])?",
    re.IGNORECASE | re.ASCII,  # without, the Kelvin sign is a K
)

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

_NEVER_HEADERS = OWN_ATTRIBUTES - {FOLDED_HEADERS_ATTRIBUTE}


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
    """Return the message that ``attributes_of`` described; somebody else's attributes are headers.

    Anyone may send attributes under our names: the result can always be sent again, to a dead-letter queue
    for instance.
    """
    message_id = attributes.get(MESSAGE_ID_ATTRIBUTE, "")
    event_type_name = attributes.get(EVENT_TYPE_ATTRIBUTE, "")
    return Message(
        message_id=message_id if IDENTIFIER.fullmatch(message_id) else fallback_message_id,
        body=body,
        event_type_name=event_type_name if 0 < len(event_type_name) <= MAX_NAME_CHARACTERS else None,
        headers=_unfold(attributes),
        published_at=_parse_time(attributes.get(PUBLISHED_AT_ATTRIBUTE)),
        content_type=attributes.get(CONTENT_TYPE_ATTRIBUTE, JSON_CONTENT_TYPE),
        message_group_id=message_group_id,
        message_deduplication_id=message_deduplication_id,
    )


def _fold(headers: Mapping[str, str], room: int) -> dict[str, str]:
    plain = {name: value for name, value in headers.items() if value and name != FOLDED_HEADERS_ATTRIBUTE}
    if len(plain) == len(headers) <= room:
        return plain
    kept = dict(list(plain.items())[: room - 1])
    folded = {name: value for name, value in headers.items() if name not in kept}
    return {**kept, FOLDED_HEADERS_ATTRIBUTE: json.dumps(folded, separators=(",", ":"))}


def _unfold(attributes: Mapping[str, str]) -> Mapping[str, str]:
    if len(attributes) <= len(OWN_ATTRIBUTES) and OWN_ATTRIBUTES.issuperset(attributes):
        folded = attributes.get(FOLDED_HEADERS_ATTRIBUTE)
        return MappingProxyType(_parse_folded(folded)) if folded else NO_HEADERS
    headers = {name: value for name, value in attributes.items() if name not in OWN_ATTRIBUTES}
    return MappingProxyType(headers | _parse_folded(attributes.get(FOLDED_HEADERS_ATTRIBUTE, "{}")))


def _parse_folded(text: str) -> dict[str, str]:
    # What we did not fold ourselves is passed on as it came.
    try:
        folded = json.loads(text)
    except (ValueError, RecursionError):
        return {FOLDED_HEADERS_ATTRIBUTE: text}
    if not isinstance(folded, dict) or not all(map(_is_header, folded.items())):
        return {FOLDED_HEADERS_ATTRIBUTE: text}
    # A header must not stand in for the id or the type when the message is sent on.
    return {name: value for name, value in folded.items() if name not in _NEVER_HEADERS}


def can_travel(text: object) -> TypeGuard[str]:
    """Return whether SNS and SQS would take ``text`` as a body or as an attribute's value."""
    return isinstance(text, str) and text != "" and not FORBIDDEN_CHARACTER.search(text)


def _is_header(item: tuple[str, object]) -> bool:
    name, value = item
    return bool(ATTRIBUTE_NAME.fullmatch(name)) and (value == "" or can_travel(value))


def _parse_time(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
