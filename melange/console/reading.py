"""Reading messages: what their body says, without the envelope of SNS, and why they are dead letters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from melange.console.model import Draft, Message, name_of
from melange.drivers.aws.dead_letters import without_note
from melange.drivers.aws.wire import delivery_from
from melange.drivers.dead_letters import FoundDeadLetter
from melange.drivers.sqs_rules import MESSAGE_ID_ATTRIBUTE, PUBLISHED_AT_ATTRIBUTE
from melange.messages import Queue as DeliveryQueue
from melange.operations.model import DeadLetter, dead_letter_from, event_type_in
from melange.server.contents import decoded, summary, task_in, type_in

_MAX_PRETTY_CHARACTERS = 262_144

_NO_QUEUE = DeliveryQueue("", "")
_OF_ONE_MESSAGE = {MESSAGE_ID_ATTRIBUTE, PUBLISHED_AT_ATTRIBUTE}
"""Attributes that another message must not share."""

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@dataclass(frozen=True, slots=True)
class Envelope:
    """What SNS has put around a message, except for its text."""

    topic_arn: str
    message_id: str
    subject: str | None
    attributes: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Reading:
    """A body as a person reads it.

    ``text`` is indented if it ``is_json``. ``event_type`` is the event's or task's name, or None. ``is_decoded`` is True if
    the text was in Base64.
    """

    text: str
    is_json: bool
    event_type: str | None
    envelope: Envelope | None
    is_decoded: bool = False


def read(message: Message) -> Reading:
    """Return the reading of a message."""
    envelope, body = _open(message.body)
    text = decoded(body)
    pretty = indented(text)
    return Reading(
        text if pretty is None else pretty,
        pretty is not None,
        event_type_of(message),
        envelope,
        is_decoded=text != body,
    )


def preview(message: Message, characters: int = 160) -> str:
    """Return the beginning of the body on one line, without the envelope; the arguments of a task of Celery."""
    _, body = _open(message.body)
    return " ".join(summary(body)[: characters * 2].split())[:characters]


def draft_of(message: Message) -> Draft:
    """Return a template for a message like this one: what its sender gave, without what melange adds."""
    envelope, body = _open(message.body)
    attributes = envelope.attributes if envelope else without_note_of(message.attributes)
    return Draft(
        indented(body) or body,
        {name: value for name, value in attributes.items() if name not in _OF_ONE_MESSAGE},
        subject=envelope.subject if envelope else None,
        group_id=message.group_id,
    )


def indented(text: str) -> str | None:
    """Return a JSON object or array with an indent; None for other text. Numbers and doubled names stay as written."""
    if len(text) > _MAX_PRETTY_CHARACTERS or text.lstrip()[:1] not in {"{", "["} or _parsed(text) is None:
        return None
    lines, depth, previous = [""], 0, ""
    for part in _JSON_TOKEN.findall(text):
        if part in {"}", "]"}:
            depth -= 1
            if previous not in {"{", "["}:
                lines.append("  " * depth)
        elif previous in {"{", "[", ","}:
            lines.append("  " * depth)
        if part in {"{", "["}:
            depth += 1
        lines[-1] += ": " if part == ":" else _readable(part)
        previous = part
    return "\n".join(lines).lstrip("\n")


def event_type_of(message: Message) -> str | None:
    """Return the type that attributes or the body give a message, or the name of its task in Celery, or None."""
    delivered = delivery_from(message.raw, _NO_QUEUE, 0, 0).message
    return (
        delivered.event_type_name
        or type_in(delivered.headers)
        or event_type_in(delivered.body)
        or task_in(delivered.body)
    )


def topic_arn_of(message: Message) -> str | None:
    """Return the topic that the envelope of SNS names; None without an envelope."""
    envelope, _ = _open(message.body)
    return envelope.topic_arn if envelope else None


def read_dead_letter(message: Message) -> DeadLetter:
    """Return the message as a dead letter, with its reason and the queue where it failed."""
    delivery = delivery_from(message.raw, _NO_QUEUE, 0, 0)
    return dead_letter_from(
        FoundDeadLetter(
            delivery,
            datetime.fromtimestamp(message.sent_at, UTC),
            message.source_arn is not None,
            name_of(message.source_arn) if message.source_arn else None,
        )
    )


def without_note_of(attributes: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """Return the attributes without the reason of a dead letter; the same object if there is none."""
    kept = without_note({name: dict(value) for name, value in attributes.items()})
    return attributes if kept == attributes else kept


def _open(body: str) -> tuple[Envelope | None, str]:
    """Return the envelope, and the text in it; None and the whole body without one."""
    if '"TopicArn"' not in body:
        return None, body
    document = _parsed(body)
    if not isinstance(document, dict) or document.get("Type") != "Notification":
        return None, body
    text, topic_arn = document.get("Message"), document.get("TopicArn")
    if not isinstance(text, str) or not isinstance(topic_arn, str):
        return None, body
    found = document.get("MessageAttributes")
    attributes = {
        str(name): {"DataType": str(value.get("Type")), "StringValue": str(value.get("Value"))}
        for name, value in (found.items() if isinstance(found, dict) else ())
        if isinstance(value, dict)
    }
    subject = document.get("Subject")
    return (
        Envelope(
            topic_arn,
            str(document.get("MessageId", "")),
            subject if isinstance(subject, str) else None,
            attributes,
        ),
        text,
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _readable(token: str) -> str:
    """Return a string of JSON without needless escapes."""
    if "\\" not in token:
        return token
    text = json.dumps(json.loads(token), ensure_ascii=False)
    return text if text.isprintable() else token
