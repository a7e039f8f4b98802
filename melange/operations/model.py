"""Dead letters as an operator sees them: the message, why, when and from where it came; and dead letters in groups."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from melange.drivers.dead_letters import FoundDeadLetter
from melange.errors import DecodeError
from melange.events import EVENT_TYPE_KEY
from melange.messages import DEAD_LETTER_HEADER, Message
from melange.serialization.json import from_json

Origin = Literal["consumer", "broker", "unknown"]

_MOVED_BY_THE_BROKER = "moved by the broker: received too often without an acknowledgement"
_NO_REASON = "no reason: not dead-lettered by a consumer of melange"

_ATTEMPTS = re.compile(r"^attempt \d+ of \d+ failed: ")
_VARYING = re.compile(
    r"""\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b   # a UUID
    | \b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b                                          # a hash
    | '[^']*' | "[^"]*"                                                        # quoted values
    | \d+(?:[.,:]\d+)*                                                         # numbers, times, addresses
    """,
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in a dead-letter queue.

    ``origin`` is ``"consumer"`` if a consumer of melange has sent it, with its ``reason``, ``listener_name`` and
    ``attempts``; ``"broker"`` if the broker moved it by itself; ``"unknown"`` if neither is known, as for a message that
    another program sent. ``queue_name`` is the queue where it failed. ``dead_since`` is the time of the rejection, or the
    time when the broker accepted the message if no other is known. ``problem`` says why the body cannot be read as an
    event; None if it can. ``receive_count`` counts looks at it, too.
    """

    message: Message
    reason: str
    origin: Origin
    listener_name: str | None
    attempts: int | None
    queue_name: str | None
    dead_since: datetime | None
    receive_count: int
    problem: str | None

    @property
    def message_id(self) -> str:
        return self.message.message_id

    @property
    def event_type_name(self) -> str | None:
        """The type beside the body or in it; None if neither has one."""
        if self.message.event_type_name is not None:
            return self.message.event_type_name
        return event_type_in(self.message.body)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the message, without the note of the dead letter."""
        headers = self.message.headers
        return {name: value for name, value in headers.items() if name != DEAD_LETTER_HEADER}

    @property
    def data(self) -> Any:
        """The body as JSON says it; None if it is not JSON."""
        return _data_in(self.message.body)

    @property
    def kind(self) -> str:
        """The reason without what differs from message to message: numbers, ids, quoted values."""
        kinds = [_VARYING.sub("..", _ATTEMPTS.sub("", reason)) for reason in self.reason.split("; ")]
        return "; ".join(dict.fromkeys(kinds))  # several listeners often fail alike

    def __repr__(self) -> str:
        """Leave the payload out, so that it is not logged by accident."""
        return f"DeadLetter(message_id={self.message_id!r}, reason={self.reason!r})"


def dead_letter_from(found: FoundDeadLetter) -> DeadLetter:
    """Return what was found in a dead-letter queue; a note that cannot be read is shown as the reason."""
    message = found.delivery.message
    note, reason = _note_of(message)
    if found.was_moved and not note:
        reason = reason or _MOVED_BY_THE_BROKER
    attempts = note.get("attempts")
    return DeadLetter(
        message=message,
        reason=reason or _NO_REASON,
        origin=_origin(note, found),
        listener_name=_text(note.get("listener")),
        attempts=attempts if isinstance(attempts, int) else None,
        queue_name=_text(note.get("queue")) or found.source_name,
        dead_since=_time(note.get("rejected_at")) or found.sent_at,
        receive_count=found.delivery.receive_count,
        problem=_problem_of(message),
    )


def note_for(found: FoundDeadLetter, queue_name: str) -> str | None:
    """Return the note of a dead letter that now belongs to another queue, such as a renamed one; None if it has no reason.

    What the broker alone knows of a letter that it moved by itself is written into the note: it is lost in a copy.
    """
    note, unreadable = _note_of(found.delivery.message)
    if note:
        return json.dumps({**note, "queue": queue_name})
    if unreadable is not None or not found.was_moved:
        return unreadable
    rejected_at = None if found.sent_at is None else found.sent_at.isoformat()
    return json.dumps(
        {
            "reason": _MOVED_BY_THE_BROKER,
            "origin": "broker",
            "queue": queue_name,
            "rejected_at": rejected_at,
        }
    )


def _origin(note: Mapping[str, Any], found: FoundDeadLetter) -> Origin:
    if note:
        return "broker" if note.get("origin") == "broker" else "consumer"
    return "broker" if found.was_moved else "unknown"


def event_type_in(body: str) -> str | None:
    """Return the event type that a body names; None if it names none."""
    data = _data_in(body)
    return _text(data.get(EVENT_TYPE_KEY)) if isinstance(data, dict) else None


def _data_in(body: str) -> Any:
    try:
        return from_json(body)
    except DecodeError:
        return None


def _note_of(message: Message) -> tuple[Mapping[str, Any], str | None]:
    """Return the fields of the note and its reason."""
    text = message.headers.get(DEAD_LETTER_HEADER)
    if text is None:
        return {}, None
    try:
        note = json.loads(text)
    except (ValueError, RecursionError):
        return {}, text
    if not isinstance(note, dict):
        return {}, text
    return note, _text(note.get("reason"))


def _problem_of(message: Message) -> str | None:
    try:
        data = from_json(message.body)
    except DecodeError as error:
        return str(error)
    return None if isinstance(data, dict) else "the body is not an object"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


# --- groups ------------------------------------------------------------------------------------

Aspect = Literal["reason", "listener", "type", "queue", "group", "age"]

ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
DEFAULT_ASPECTS: tuple[Aspect, ...] = ("reason", "listener", "type")

_AGES = (
    (60, "under 1m"),
    (600, "1m to 10m"),
    (3_600, "10m to 1h"),
    (86_400, "1h to 1d"),
    (604_800, "1d to 7d"),
)
_OLDER = "over 7d"
_AGE_NAMES = [*(name for _, name in _AGES), _OLDER, None]


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters that have ``aspects`` in common, such as ``{"reason": ..., "type": ...}``; None stands for unknown.

    The reason is without numbers, ids and quoted values. ``oldest`` and ``newest`` are the first and the last time of a
    rejection; ``example_id`` is the message id of one of them.
    """

    aspects: Mapping[str, str | None]
    count: int
    oldest: datetime | None
    newest: datetime | None
    example_id: str


def grouped(
    letters: Iterable[DeadLetter], now: datetime, by: Sequence[Aspect] = DEFAULT_ASPECTS
) -> list[Group]:
    """Return the groups, the largest first; by age alone, the newest first.

    Reads ``letters`` one by one and keeps none of them.
    """
    groups: dict[tuple[str | None, ...], Group] = {}
    for letter in letters:
        values = tuple(_aspect(letter, aspect, now) for aspect in by)
        group = groups.get(values)
        moment = letter.dead_since
        if group is None:
            aspects: dict[str, str | None] = dict(zip(by, values, strict=True))
            groups[values] = Group(aspects, 1, moment, moment, letter.message_id)
        else:
            groups[values] = Group(
                group.aspects,
                group.count + 1,
                min(filter(None, (group.oldest, moment)), default=None),
                max(filter(None, (group.newest, moment)), default=None),
                group.example_id,
            )
    if by == ("age",):
        return sorted(groups.values(), key=lambda group: _AGE_NAMES.index(group.aspects["age"]))
    return sorted(groups.values(), key=lambda group: -group.count)


def _aspect(letter: DeadLetter, aspect: Aspect, now: datetime) -> str | None:
    if aspect == "reason":
        return letter.kind
    if aspect == "listener":
        return letter.listener_name
    if aspect == "type":
        return letter.event_type_name
    if aspect == "queue":
        return letter.queue_name
    if aspect == "group":
        return letter.message.message_group_id
    return _age(letter, now)


def _age(letter: DeadLetter, now: datetime) -> str | None:
    if letter.dead_since is None:
        return None
    age = (now - letter.dead_since).total_seconds()
    return next((name for seconds, name in _AGES if age <= seconds), _OLDER)
