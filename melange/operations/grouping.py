"""Dead letters in groups: the answer to "what happened, since when, how many kinds"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from melange.operations.dead_letter import DeadLetter

Aspect = Literal["reason", "listener", "type", "queue", "group", "age"]

ASPECTS: tuple[Aspect, ...] = ("reason", "listener", "type", "queue", "group", "age")
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
    """Return the groups, the largest first; by age alone, the newest first. Reads ``letters`` one by one and keeps none of them."""
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
