"""The contents of an outbox, as text for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from melange.cli.logs import printable
from melange.outbox import FailedMessage, TopicStatus

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


def seconds_since(time: datetime) -> float:
    """Return the seconds since then; 0 if the clock of the writer was ahead."""
    return max(0.0, (datetime.now(UTC) - time).total_seconds())


def age_since(time: datetime | None) -> str:
    """Return the age in its largest unit; a dash if the row has no readable time."""
    return "-" if time is None else age(seconds_since(time))


def age(seconds: float) -> str:
    """Return a duration in its largest unit, rounded down: 45s, 12m, 5h, 3d."""
    for name, length in _UNITS:
        if seconds >= length:
            return f"{seconds // length:.0f}{name}"
    return f"{seconds:.0f}s" if seconds < 59.5 else "59s"


def status_table(topics: Iterable[TopicStatus]) -> str:
    """Return a line for each topic."""
    rows = [
        (topic.topic, topic.pending, topic.failed, topic.held, age_since(topic.oldest_published_at))
        for topic in topics
    ]
    return _table(("TOPIC", "PENDING", "FAILED", "HELD", "OLDEST"), rows)


def failed_table(messages: Iterable[FailedMessage]) -> str:
    """Return a line for each message; the error, which is long, at its end."""
    rows = [
        (
            message.id,
            message.topic,
            "-" if message.key is None else message.key,
            message.event_type_name,
            message.message_id,
            age_since(message.published_at),
            message.held,
            message.error,
        )
        for message in messages
    ]
    return _table(("ID", "TOPIC", "KEY", "TYPE", "MESSAGE ID", "AGE", "HELD", "ERROR"), rows)


def as_json(items: Iterable[TopicStatus | FailedMessage]) -> str:
    """Return a list of objects, with the names that the classes have; in ASCII, so that any terminal can show it."""
    return json.dumps([asdict(item) for item in items], default=datetime.isoformat, indent=2)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    lines = [headings, *([printable(str(value)) for value in row] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(headings))]
    return "\n".join(
        "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
