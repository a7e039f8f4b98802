"""Dead letters, grouped by the reason for which they failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from melange.console.backend import Backend, RefusedError
from melange.console.model import Message, MessageQuery
from melange.console.pages import Page, Redirect, Visit, confirmation
from melange.console.reading import event_type_of, read_dead_letter

GROUPED_MESSAGES = 1_000
"""The number of messages of a queue that are grouped."""


@dataclass(slots=True)
class ReasonGroup:
    """Dead letters that failed for one reason; ``kind`` is the reason without numbers, ids and quoted values."""

    kind: str
    example: str
    messages: list[Message] = field(default_factory=list)
    types: set[str] = field(default_factory=set)
    listeners: set[str] = field(default_factory=set)
    oldest: datetime | None = None
    newest: datetime | None = None
    has_unknown_times: bool = False
    """True if the time of some is that of their sending, because only a consumer of melange notes when a message failed."""


def show(visit: Visit) -> Page:
    overview = visit.backend.overview()
    queues = [queue for queue in overview.queues if queue.holds_dead_letters]
    return Page(
        "dead_letters.html",
        {
            "overview": overview,
            "queues": [(queue, groups_of(visit.backend, queue.arn)) for queue in queues if queue.total],
            "empty": [queue for queue in queues if not queue.total],
        },
    )


def retry(visit: Visit) -> Page | Redirect:
    """Move the dead letters with a reason, or all, back to the queues where they failed."""
    backend, arn = visit.backend, visit.arguments[0]
    reason = visit.text("reason")
    if backend.looking_receives and not visit.value("is_sure"):
        which = f"with the reason “{reason}”" if reason else "of the queue"
        return confirmation(
            "Retry dead letters?",
            f"All dead letters {which} move back to the queues where they failed, and are received again.",
            "Retry",
            f"queues/{arn}",
            [("reason", reason), ("is_sure", "yes")],
        )
    if reason:
        keys = [message.key for message in with_reason(groups_of(backend, arn), reason)]
        if not keys:
            raise RefusedError("No message has this reason any more.")
        number = backend.retry(arn, keys)
    else:
        number = backend.retry_all(arn)
    return Redirect(f"queues/{arn}", f"Moved back to where they failed: {number:,}.")


def groups_of(backend: Backend, queue_arn: str) -> list[ReasonGroup]:
    """Return the groups of the first messages in a queue, the largest first."""
    groups: dict[str, ReasonGroup] = {}
    for message in backend.messages(queue_arn, MessageQuery(limit=GROUPED_MESSAGES)).messages:
        letter = read_dead_letter(message)
        # Half a surrogate pair, which JSON can write, has no place in an address.
        kind = letter.kind.encode("utf-8", "backslashreplace").decode()
        group = groups.setdefault(kind, ReasonGroup(kind, letter.reason))
        group.messages.append(message)
        if event_type := event_type_of(message):
            group.types.add(event_type)
        if letter.listener_name:
            group.listeners.add(letter.listener_name)
        group.has_unknown_times |= letter.origin != "consumer"
        if letter.dead_since:
            group.oldest = min(group.oldest or letter.dead_since, letter.dead_since)
            group.newest = max(group.newest or letter.dead_since, letter.dead_since)
    return sorted(groups.values(), key=lambda group: -len(group.messages))


def with_reason(groups: Sequence[ReasonGroup], kind: str) -> list[Message]:
    """Return the messages of the group with this reason."""
    return next((group.messages for group in groups if group.kind == kind), [])
