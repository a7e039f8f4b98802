"""A plan: the changes after which a broker has what a program declares, and carrying them out. ``drift`` makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from melange.errors import ConfigurationError
from melange.topology.model import Topology

Action = Literal["create", "update", "move", "remove"]
Kind = Literal["topic", "queue", "binding"]


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
    still as the program wants it. ``takes`` says what does not apply at once. ``message_count`` of a queue to move or
    remove is an estimate.
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


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes in the order in which they are carried out, and what a person should know besides."""

    topology: Topology
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    @property
    def has_drift(self) -> bool:
        """True if the broker is not as the program wants it."""
        return any(change.is_drift for change in self.changes)

    def to_document(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "topology": self.topology.name,
            "prefix": self.topology.prefix,
            "drift": self.has_drift,
            "changes": [change.to_document() for change in self.changes],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done, and what was left with the reason."""

    done: tuple[Change, ...]
    left: tuple[tuple[Change, str], ...]

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "done": [change.to_document() for change in self.done],
            "left": [{**change.to_document(), "reason": reason} for change, reason in self.left],
        }


def apply_plan(
    plan: Plan,
    *,
    prune: bool = False,
    delete_messages: bool = False,
    adopt: bool = False,
    on_done: Callable[[Change], None] | None = None,
) -> Applied:
    """Carry out the plan, in order. It may be repeated after a failure: make a new plan, which has the rest.

    Args:
        prune: remove bindings, filters and queues that the program does not declare any more.
        delete_messages: remove queues that still hold messages too, and their messages with them.
        adopt: take over queues that are marked for another topology.
        on_done: called after each change.

    Raises:
        ConfigurationError: a queue is marked for another topology, without ``adopt``; nothing was changed.
        DriverError: the broker is unavailable, or a permission is missing; earlier changes are done.
    """
    foreign = [change for change in plan.changes if change.owner]
    if foreign and not adopt:
        raise ConfigurationError(
            f"queue {foreign[0].name} is marked for the topology {foreign[0].owner!r}, and this is "
            f"{plan.topology.name!r}: two environments or programs share its name. Give one of them a prefix "
            "(prefix= of the driver), or take the queue over with --adopt"
        )
    done: list[Change] = []
    left: list[tuple[Change, str]] = []
    for change in plan.changes:
        reason = reason_to_leave(change, prune=prune, delete_messages=delete_messages)
        if reason:
            left.append((change, reason))
            continue
        change.carry_out()
        done.append(change)
        if on_done is not None:
            on_done(change)
    return Applied(tuple(done), tuple(left))


def reason_to_leave(change: Change, *, prune: bool, delete_messages: bool) -> str | None:
    """Return the reason why ``apply_plan`` leaves the change; None if it carries it out."""
    if change.action != "remove" or (prune and (delete_messages or not change.message_count)):
        return None
    if not change.message_count:
        return "removed with --prune only"
    needed = "--delete-messages" if prune else "--prune --delete-messages"
    return (
        f"it holds {about(change.message_count)}. If {change.old_name} was renamed: --renamed {change.old_name}=NEW_NAME; "
        f"if nothing needs them: {needed}"
    )


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
