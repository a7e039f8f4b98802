"""Dead letters as text and as JSON, with sensitive fields masked, and what is said of those that are left."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from melange.cli.failures import TRY_AGAIN, complain
from melange.cli.logs import printable
from melange.cli.readable import age_since, counted
from melange.drivers.base import QueueDepth
from melange.errors import DecodeError
from melange.operations import DeadLetter, DeadLetters
from melange.serialization.json import from_json
from melange.serialization.masking import masked_body, sensitive_names
from melange.serialization.serializer import EventSerializer

_MOST_IDS = 10
_MOST_FAILURES = 10

HIDDEN = "hidden: name the program with --app, so that sensitive fields can be masked, or use --unmasked"


def overview(letters: DeadLetters, depth: QueueDepth) -> str:
    """Return one line about the whole dead-letter queue."""
    about = "about " if letters.counts_are_estimates else ""
    line = f"{letters.queue.name}: {about}{counted(depth.visible, 'dead letter')}"
    if depth.in_flight:
        line += f", and {about}{depth.in_flight:,} in flight elsewhere, which cannot be seen"
    return printable(line)


def overview_of_source(letters: DeadLetters, depth: QueueDepth | None) -> str | None:
    """Return one line about the queue where the messages failed; None if it is not known which."""
    if letters.source is None or depth is None:
        return None
    about = "about " if letters.counts_are_estimates else ""
    line = f"{letters.source.name}: {about}{counted(depth.visible, 'message')}, {about}{depth.in_flight:,} in flight"
    if depth.delayed:
        line += f", {about}{depth.delayed:,} delayed"
    return printable(line)


def body_of(letter: DeadLetter, serializer: EventSerializer | None, *, unmasked: bool) -> str | None:
    """Return the body for printing; None if it cannot be masked.

    It can if the program is known: then a type that declares sensitive fields is among those that were imported.
    """
    body = letter.message.body
    if unmasked:
        return body
    if serializer is None and sensitive_names(letter.event_type_name) is None:
        return None
    return masked_body(body, letter.event_type_name, serializer)


def as_json(letter: DeadLetter, body: str | None) -> dict[str, Any]:
    """Return the dead letter as a JSON object; ``body`` is parsed where it is JSON."""
    return {
        **summary(letter),
        "headers": dict(letter.headers),
        "published_at": _text(letter.message.published_at),
        "message_group_id": letter.message.message_group_id,
        "problem": letter.problem,
        "body": HIDDEN if body is None else _parsed(body),
    }


def summary(letter: DeadLetter) -> dict[str, Any]:
    """Return what identifies a dead letter, without its content."""
    return {
        "message_id": letter.message_id,
        "event_type_name": letter.event_type_name,
        "reason": letter.reason,
        "origin": letter.origin,
        "listener_name": letter.listener_name,
        "attempts": letter.attempts,
        "queue_name": letter.queue_name,
        "dead_since": _text(letter.dead_since),
        "receive_count": letter.receive_count,
    }


def lines_of(letter: DeadLetter, body: str | None) -> Iterator[str]:
    """Yield the dead letter as lines for people; no content can look like another line."""
    yield printable(f"message {letter.message_id}")
    facts = {
        "reason": letter.reason,
        "listener": letter.listener_name,
        "attempts": letter.attempts,
        "queue": letter.queue_name,
        "dead since": _moment(letter.dead_since),
        "type": letter.event_type_name,
        "published": _moment(letter.message.published_at),
        "group": letter.message.message_group_id,
        "receives": f"{letter.receive_count}, this look included",
        "problem": letter.problem,
    }
    for name, value in facts.items():
        if value is not None:
            yield f"  {name:<12}{printable(str(value))}"
    for name, value in letter.headers.items():
        yield printable(f"  header      {name}: {value}")
    yield "  body"
    for line in [HIDDEN] if body is None else _pretty(body):
        yield f"    {printable(line)}"


def _pretty(body: str) -> list[str]:
    parsed = _parsed(body)
    if isinstance(parsed, (dict, list)):
        return json.dumps(parsed, indent=2, ensure_ascii=False).split("\n")
    return body.split("\n")


def _parsed(body: str) -> Any:
    try:
        return from_json(body)
    except DecodeError:
        return body


def _moment(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {age_since(moment)} ago"


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def complain_of_missing(ids: Iterable[str], letters: DeadLetters) -> None:
    """End with 1 if ids are left."""
    missing = sorted(ids)
    if missing:
        shown = ", ".join(missing[:_MOST_IDS])
        more = f" and {len(missing) - _MOST_IDS:,} more" if len(missing) > _MOST_IDS else ""
        complain(
            f"not seen in {letters.queue.name}: {shown}{more}. It may be in flight elsewhere, or retried already"
        )
        sys.exit(TRY_AGAIN)


def complain_of_failures(errors: Sequence[tuple[str, str]]) -> None:
    """Write the first errors, each with the id of its message."""
    for message_id, error in errors[:_MOST_FAILURES]:
        complain(f"message {message_id}: {error}")
    if len(errors) > _MOST_FAILURES:
        complain(f"and {len(errors) - _MOST_FAILURES:,} more: --json lists them all")
