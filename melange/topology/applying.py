"""Carrying out a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from melange.errors import ConfigurationError
from melange.topology.changes import Change, about
from melange.topology.plan import Plan


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
