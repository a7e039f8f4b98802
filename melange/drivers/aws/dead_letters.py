"""Dead letters on SQS: the message as received, with the reason if there is space for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from melange.drivers.aws.operations import Parameters
from melange.drivers.aws.wire import Received
from melange.drivers.aws.xray import TRACE_ATTRIBUTE
from melange.drivers.dead_letters import dead_letter_of
from melange.drivers.sqs_rules import (
    ATTRIBUTE_TYPE,
    FOLDED_HEADERS_ATTRIBUTE,
    MAX_ATTRIBUTES,
    MESSAGE_ID_ATTRIBUTE,
    OWN_ATTRIBUTES,
    PUBLISHED_AT_ATTRIBUTE,
)
from melange.messages import DEAD_LETTER_HEADER, TRACE_HEADERS, Delivery, Queue

_SHORT_TEXT_CHARACTERS = 60

Attribute = dict[str, Any]
Attributes = dict[str, Attribute]


def copies_of(delivery: Delivery, received: Received, target: Queue, note: str) -> Iterator[Parameters]:
    """Yield parameters of ``SendMessage``, and smaller ones in case they are refused.

    All have the body as received, envelope included, the attributes with their types, and the trace header. The
    first one has the whole note, the next a shorter one, then none; the last is exactly what was received.
    """
    body = received.raw["Body"]
    bare = attributes_of(received)
    known = with_identity(delivery, received, without_note(bare))
    for attributes in _with_shorter_notes(body, known, note, target):
        yield _copy(delivery, received, target, attributes)
    yield _copy(delivery, received, target, bare)


def with_fitting_note(body: str, attributes: Attributes, note: str, target: Queue) -> Attributes:
    """Return the attributes with the note, shortened or left out if the queue's limits leave no space."""
    return next(_with_shorter_notes(body, attributes, note, target), attributes)


def _with_shorter_notes(body: str, known: Attributes, note: str, target: Queue) -> Iterator[Attributes]:
    for attributes in (_with_note(known, note), _with_note(known, _shortened(note)), known):
        if len(attributes) <= MAX_ATTRIBUTES and size_of(body, attributes) <= target.max_message_bytes:
            yield attributes


def attributes_of(received: Received) -> Attributes:
    """Return the attributes of a received message, to be sent again with their types."""
    return {name: _sendable(value) for name, value in (received.raw.get("MessageAttributes") or {}).items()}


def with_identity(delivery: Delivery, received: Received, attributes: Attributes) -> Attributes:
    """Return the attributes with the id of the message and its time, which SQS would replace in a copy."""
    message = delivery.message
    known = dict(attributes)
    # An envelope has an id that stays.
    if MESSAGE_ID_ATTRIBUTE not in known and message.body == received.raw["Body"]:
        known[MESSAGE_ID_ATTRIBUTE] = _text(message.message_id)
    published_at = message.published_at
    if published_at and PUBLISHED_AT_ATTRIBUTE not in known and len(known) < MAX_ATTRIBUTES - 1:
        known[PUBLISHED_AT_ATTRIBUTE] = _text(published_at.isoformat())
    return known


def trace_of(received: Received) -> Attributes:
    """Return the trace header as a parameter of a send, {} without one."""
    trace = (received.raw.get("Attributes") or {}).get(TRACE_ATTRIBUTE)
    return {"MessageSystemAttributes": {TRACE_ATTRIBUTE: _text(trace)}} if trace else {}


def without_note(attributes: Attributes) -> Attributes:
    """Return the attributes without the reason of an earlier dead letter."""
    kept = {name: value for name, value in attributes.items() if name != DEAD_LETTER_HEADER}
    folded = _folded_headers(kept)
    if folded and folded.pop(DEAD_LETTER_HEADER, None) is not None:
        del kept[FOLDED_HEADERS_ATTRIBUTE]
        return {**kept, **_fold(folded)} if folded else kept
    return kept


def _with_note(attributes: Attributes, note: str) -> Attributes:
    folded = _folded_headers(attributes)
    kept = {name: value for name, value in attributes.items() if name != FOLDED_HEADERS_ATTRIBUTE}
    if len(attributes) < MAX_ATTRIBUTES or MESSAGE_ID_ATTRIBUTE not in attributes or folded is None:
        return {**attributes, DEAD_LETTER_HEADER: _text(note)}
    # melange reads a folded header like any other: if all ten attributes are used, one is folded for the note.
    if len(kept) == MAX_ATTRIBUTES:
        name = next((name for name, value in kept.items() if _is_foldable(name, value)), None)
        if name is None:
            return {**attributes, DEAD_LETTER_HEADER: _text(note)}
        folded[name] = kept.pop(name)["StringValue"]
    return {**kept, **_fold({**folded, DEAD_LETTER_HEADER: note})}


def _is_foldable(name: str, attribute: Attribute) -> bool:
    is_for_others = name in OWN_ATTRIBUTES or TRACE_HEADERS.fullmatch(name)
    return not is_for_others and attribute["DataType"] == ATTRIBUTE_TYPE


def _folded_headers(attributes: Attributes) -> dict[str, Any] | None:
    """Return the headers in the attribute for folded ones, None if another program has written it."""
    try:
        folded = json.loads(attributes.get(FOLDED_HEADERS_ATTRIBUTE, {}).get("StringValue") or "{}")
    except (ValueError, RecursionError):
        return None
    return folded if isinstance(folded, dict) else None


def _fold(headers: dict[str, Any]) -> Attributes:
    return {FOLDED_HEADERS_ATTRIBUTE: _text(json.dumps(headers, separators=(",", ":")))}


def _shortened(note: str) -> str:
    """Return the note with shortened texts and without lists."""
    try:
        fields = json.loads(note)
    except ValueError:
        return note
    if not isinstance(fields, dict):
        return note
    short = {
        name: value[:_SHORT_TEXT_CHARACTERS] if isinstance(value, str) else value
        for name, value in fields.items()
        if not isinstance(value, (list, dict))
    }
    return json.dumps(short, separators=(",", ":"))


def _copy(delivery: Delivery, received: Received, target: Queue, attributes: Attributes) -> Parameters:
    twin = dead_letter_of(delivery, is_fifo=target.is_fifo)
    copy: Parameters = {"MessageBody": received.raw["Body"], "MessageAttributes": attributes}
    if twin.message_group_id is not None:
        copy["MessageGroupId"] = twin.message_group_id
    if target.is_fifo:
        copy["MessageDeduplicationId"] = twin.message_deduplication_id
    return copy | trace_of(received)


def _sendable(attribute: Mapping[str, Any]) -> Attribute:
    value = "BinaryValue" if attribute.get("StringValue") is None else "StringValue"
    return {"DataType": attribute.get("DataType", ATTRIBUTE_TYPE), value: attribute.get(value)}


def _text(value: str) -> Attribute:
    return {"DataType": ATTRIBUTE_TYPE, "StringValue": value}


def size_of(body: str, attributes: Attributes) -> int:
    """Return the bytes that SQS counts."""
    return len(body.encode()) + sum(
        len(name.encode()) + len(attribute["DataType"].encode()) + _length(attribute)
        for name, attribute in attributes.items()
    )


def _length(attribute: Attribute) -> int:
    value = attribute.get("StringValue")
    return len(value.encode()) if value is not None else len(attribute.get("BinaryValue") or b"")
