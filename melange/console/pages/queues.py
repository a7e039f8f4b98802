"""A queue and its messages: depths and rates, one message, and what can be done to one, some or all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from melange.console.backend import RefusedError
from melange.console.charts import Sample, chart_of
from melange.console.model import STATES, Message, MessageQuery, Messages, Overview, Queue
from melange.console.pages import Page, Redirect, Visit, confirmation
from melange.console.pages.dead_letters import groups_of, with_reason
from melange.console.reading import Reading, preview, read, read_dead_letter
from melange.operations import DeadLetter

PAGE_SIZE = 50

_CONFIRMATIONS = {
    "delete": ("Delete", "They are deleted from {} and cannot be restored."),
    "move": ("Move", "They move from {} to another queue, where consumers may receive them at once."),
    "retry": ("Retry", "They move from {} back to the queues where they failed, and are received again."),
}


def show(visit: Visit) -> Page:
    overview, queue = visit.find_queue()
    typed, backend = visit.query, visit.backend
    query = MessageQuery(
        after=typed.get("after"),
        limit=PAGE_SIZE,
        text=typed.get("text", "").strip(),
        state=typed.get("state", ""),
        newest_first=typed.get("order") == "newest",
    )
    reason = typed.get("reason", "")
    groups = groups_of(backend, queue.arn) if queue.holds_dead_letters else []
    found = Messages(with_reason(groups, reason)) if reason else backend.messages(queue.arn, query)
    return Page(
        "queue.html",
        {
            "overview": overview,
            "queue": queue,
            "found": found,
            "rows": [_row(queue, message) for message in found.messages],
            "groups": groups,
            "text": query.text,
            "state": query.state,
            "reason": reason,
            "looked_at": backend.looked_at(queue.arn),
            "order": typed.get("order", ""),
            "after": typed.get("after", ""),
            "states": STATES,
            "others": _targets(overview, queue),
            **_charts(visit.history.of(queue.arn)),
        },
    )


def _row(queue: Queue, message: Message) -> tuple[Message, Reading, str, DeadLetter | None]:
    letter = read_dead_letter(message) if queue.holds_dead_letters else None
    return message, read(message), preview(message), letter


def _charts(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "depth_charts": {
            "visible": chart_of(visible=[one.visible for one in samples]),
            "in flight": chart_of(in_flight=[one.in_flight for one in samples]),
            "delayed": chart_of(delayed=[one.delayed for one in samples]),
        },
        "rate_chart": chart_of(
            arriving=[one.arriving for one in samples],
            received=[one.receiving for one in samples],
            deleted=[one.deleting for one in samples],
        ),
    }


def look(visit: Visit) -> Redirect:
    arn = visit.arguments[0]
    visit.backend.look(arn)
    number = len(visit.backend.messages(arn, MessageQuery(limit=1_000)).messages)
    return Redirect(f"queues/{arn}", f"Seen: {_counted(number)}.")


def ask_purge(visit: Visit) -> Page:
    _, queue = visit.find_queue()
    about = "about " if visit.backend.counts_are_estimates else ""
    return confirmation(
        f"Purge {queue.name}?",
        f"This deletes all messages of the queue, {about}{queue.total:,} now, those in flight included. "
        "They cannot be restored.",
        "Purge",
        f"queues/{queue.arn}",
    )


def purge(visit: Visit) -> Redirect:
    _, queue = visit.find_queue()
    visit.backend.purge(queue.arn)
    return Redirect(f"queues/{queue.arn}", f"{queue.name} is purged.")


def ask_delete(visit: Visit) -> Page:
    _, queue = visit.find_queue()
    return confirmation(
        f"Delete {queue.name}?",
        f"This deletes the queue and its messages, {queue.total:,} now. Its subscriptions stay and deliver nothing.",
        "Delete",
        f"queues/{queue.arn}",
    )


def delete(visit: Visit) -> Redirect:
    _, queue = visit.find_queue()
    visit.backend.delete_queue(queue.arn)
    return Redirect("", f"{queue.name} is deleted.")


def show_message(visit: Visit) -> Page:
    overview, queue = visit.find_queue()
    message = visit.backend.message(queue.arn, visit.arguments[1])
    following = [] if visit.backend.looking_receives else _following(visit, message.key)
    return Page(
        "message.html",
        {
            "overview": overview,
            "queue": queue,
            "message": message,
            "reading": read(message),
            "next_key": following[0].key if following else None,
            "letter": read_dead_letter(message) if queue.holds_dead_letters else None,
            "others": _targets(overview, queue),
        },
    )


def _following(visit: Visit, key: str) -> Sequence[Message]:
    return visit.backend.messages(visit.arguments[0], MessageQuery(after=key, limit=1)).messages


def release(visit: Visit) -> Redirect:
    arn, key = visit.arguments
    visit.backend.release(arn, key)
    return Redirect(f"queues/{arn}/messages/{key}", "The message is visible now.")


def change_selected(visit: Visit) -> Page | Redirect:
    """Retry, move or delete the messages with the keys in the form; ask before they are deleted."""
    _, queue = visit.find_queue()
    keys = list(visit.form.get("key", []))
    action = visit.value("action")
    back = f"queues/{queue.arn}"
    if not keys:
        raise RefusedError("Select at least one message first.")
    if action == "move" and not visit.value("target"):
        raise RefusedError("Choose the queue to which the messages move.")
    # Where the programs of others work on the queues, nothing moves without a question.
    is_asked = action == "delete" or (action in _CONFIRMATIONS and visit.backend.looking_receives)
    if is_asked and not visit.value("is_sure"):
        return _asked(visit, action, keys, queue)
    if action == "retry":
        number = visit.backend.retry(queue.arn, keys)
        return Redirect(
            back, f"{_counted(number)} moved back to where {'it' if number == 1 else 'they'} failed."
        )
    if action == "move":
        target = visit.value("target")
        number = visit.backend.move(queue.arn, keys, target)
        return Redirect(back, f"{_counted(number)} moved to {target.rpartition(':')[2]}.")
    if action == "delete":
        return Redirect(back, f"{_counted(visit.backend.delete(queue.arn, keys))} deleted.")
    raise RefusedError("Choose an action: retry, move or delete.")


def _asked(visit: Visit, action: str, keys: list[str], queue: Queue) -> Page:
    verb, text = _CONFIRMATIONS[action]
    fields = [("action", action), ("target", visit.value("target")), ("is_sure", "yes")]
    return confirmation(
        f"{verb} {_counted(len(keys))}?",
        text.format(queue.name),
        verb,
        f"queues/{queue.arn}",
        [*fields, *(("key", key) for key in keys)],
    )


def _targets(overview: Overview, queue: Queue) -> list[Queue]:
    """Return the queues to which messages of a queue can move."""
    return [one for one in overview.queues if one.is_fifo == queue.is_fifo and one is not queue]


def _counted(number: int) -> str:
    """Return a number of messages in words."""
    return "1 message" if number == 1 else f"{number:,} messages"
