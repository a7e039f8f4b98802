"""Selections of dead letters: by id, reason, listener, type, age, header or field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from melange.operations.model import DeadLetter, Origin


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects dead letters; what is not given selects all, and everything that is given must hold.

    Args:
        message_ids: these messages.
        dead_since: the time of the rejection for each of ``message_ids``: a message that has failed again since is not
            selected. See ``exported_letters``.
        reason: a text in the reason, in any case.
        listener_name: the listener that failed; of several that failed together, one of them.
        event_type_name: the type of the event.
        queue_name: the queue where it failed.
        origin: ``"consumer"``, ``"broker"`` or ``"unknown"``, see ``DeadLetter``.
        older_than_seconds: dead for longer than this; a letter of unknown age is not.
        younger_than_seconds: dead for at most this long; a letter of unknown age is not.
        headers: headers with exactly these values.
        fields: fields of the body, as ``{"customer.id": 17}``. A text also matches the number, true, false or null that
            it writes. Numbers in a path are places in a list.
    """

    message_ids: frozenset[str] = frozenset()
    dead_since: Mapping[str, datetime | None] = field(default_factory=dict)
    reason: str | None = None
    listener_name: str | None = None
    event_type_name: str | None = None
    queue_name: str | None = None
    origin: Origin | None = None
    older_than_seconds: float | None = None
    younger_than_seconds: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def selects_all(self) -> bool:
        """True if nothing was given."""
        return self == Selection()

    def includes(self, letter: DeadLetter, now: datetime) -> bool:
        """Return True if the letter is selected."""
        return (
            (not self.message_ids or letter.message_id in self.message_ids)
            and self._has_not_failed_since(letter)
            and (self.reason is None or self.reason.casefold() in letter.reason.casefold())
            and (self.listener_name is None or self.listener_name in _names(letter.listener_name))
            and (self.event_type_name is None or self.event_type_name == letter.event_type_name)
            and (self.queue_name is None or self.queue_name == letter.queue_name)
            and (self.origin is None or self.origin == letter.origin)
            and self._is_of_age(letter, now)
            and all(letter.headers.get(name) == value for name, value in self.headers.items())
            and (not self.fields or self._has_fields(letter.data))
        )

    def _has_not_failed_since(self, letter: DeadLetter) -> bool:
        known = self.dead_since.get(letter.message_id)
        if known is None or letter.dead_since is None:
            return True
        return letter.dead_since - known < _SAME_MOMENT

    def _is_of_age(self, letter: DeadLetter, now: datetime) -> bool:
        if self.older_than_seconds is None and self.younger_than_seconds is None:
            return True
        if letter.dead_since is None:
            return False
        age = (now - letter.dead_since).total_seconds()
        return (self.older_than_seconds is None or age > self.older_than_seconds) and (
            self.younger_than_seconds is None or age <= self.younger_than_seconds
        )

    def _has_fields(self, data: Any) -> bool:
        return all(_matches(_field(data, path), value) for path, value in self.fields.items())


# The in-memory broker computes the time again for each look.
_SAME_MOMENT = timedelta(seconds=1)


class _Missing:
    pass


_MISSING = _Missing()


def _names(listener_name: str | None) -> list[str]:
    return [] if listener_name is None else [listener_name, *listener_name.split(", ")]


def _field(data: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(data, dict) and name in data:
            data = data[name]
        elif isinstance(data, list) and name.isdecimal() and int(name) < len(data):
            data = data[int(name)]
        else:
            return _MISSING
    return data


def _matches(found: Any, wanted: Any) -> bool:
    if found is _MISSING:
        return False
    if found == wanted and type(found) is type(wanted):
        return True
    if not isinstance(wanted, str) or isinstance(found, str):
        return False
    return json.dumps(found) == wanted
