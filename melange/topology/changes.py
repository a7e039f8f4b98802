"""The changes of a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["create", "update", "move", "remove"]
Kind = Literal["topic", "queue", "binding"]

NOWHERE = "none"
FILTER_TAKES = "up to 15 minutes on AWS"
NAME_TAKES = "the name is free again after 60 seconds on AWS"


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting, as it is now and as it is wanted."""

    setting: str
    now: str
    wanted: str


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to create, to update, to move or to remove.

    ``is_drift`` is False for what consumers do not declare themselves, such as the mark of the topology: their broker is
    still as the program wants it. ``takes`` says what does not apply at once. ``message_count`` of a queue to move or remove is an
    estimate.
    """

    action: Action
    kind: Kind
    name: str
    differences: tuple[Difference, ...] = ()
    is_drift: bool = True
    takes: str = ""
    message_count: int = 0
    owner: str = ""
    """The other topology that the queue is marked for."""
    old_name: str = ""
    """Of a queue to remove: the name by which a rename keeps its messages; for a dead-letter queue that of its source."""
    dead_letters_of: str = ""
    """Of dead letters that move: the queue to which they belong from then on."""
    carry_out: Callable[[], object] = field(default=lambda: None, repr=False, compare=False)

    def to_document(self) -> dict[str, Any]:
        """Return the change as JSON values."""
        return {
            "action": self.action,
            "kind": self.kind,
            "name": self.name,
            "differences": [
                {"setting": one.setting, "now": one.now, "wanted": one.wanted} for one in self.differences
            ],
            "drift": self.is_drift,
            "takes": self.takes or None,
            "messages": self.message_count,
            "owner": self.owner or None,
            "old_name": self.old_name or None,
            "dead_letters_of": self.dead_letters_of or None,
        }


def about(message_count: int) -> str:
    """Return the estimate of a number of messages."""
    return f"about {message_count:,} message{'' if message_count == 1 else 's'}"


def in_words(seconds: int) -> str:
    """Return a duration in the largest unit that divides it."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds % length == 0:
            count = seconds // length
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds} seconds"
