"""A queue: its depths and rates, its messages, and what can be done to all of them."""

from __future__ import annotations

from melange.console.backend import NotFoundError
from melange.console.charts import chart_of
from melange.console.model import STATES, Messages, Overview, Queue
from melange.console.pages.dead_letters import groups_of, with_reason
from melange.console.reading import dead_letter_of, preview, read
from melange.console.visits import Page, Redirect, Visit, confirmation

PAGE_SIZE = 50


def show(visit: Visit) -> Page:
    overview, queue = find(visit)
    query, backend = visit.query, visit.backend
    text, state, reason = query.get("text", "").strip(), query.get("state", ""), query.get("reason", "")
    groups = groups_of(backend, queue.arn) if queue.holds_dead_letters else []
    if reason:
        found = Messages(with_reason(groups, reason))
    else:
        found = backend.messages(
            queue.arn,
            after=query.get("after"),
            limit=PAGE_SIZE,
            text=text,
            state=state,
            newest_first=query.get("order") == "newest",
        )
    samples = visit.history.of(queue.arn)
    return Page(
        "queue.html",
        {
            "overview": overview,
            "queue": queue,
            "found": found,
            "rows": [
                (
                    message,
                    read(message),
                    preview(message),
                    dead_letter_of(message) if queue.holds_dead_letters else None,
                )
                for message in found.messages
            ],
            "groups": groups,
            "text": text,
            "state": state,
            "reason": reason,
            "looked_at": backend.looked_at(queue.arn),
            "order": query.get("order", ""),
            "after": query.get("after", ""),
            "states": STATES,
            "others": [one for one in overview.queues if one.is_fifo == queue.is_fifo and one is not queue],
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
        },
    )


def look(visit: Visit) -> Redirect:
    arn = visit.arguments[0]
    visit.backend.look(arn)
    number = len(visit.backend.messages(arn, limit=1_000).messages)
    return Redirect(f"queues/{arn}", f"Seen: {messages_in_words(number)}.")


def ask_purge(visit: Visit) -> Page:
    _, queue = find(visit)
    about = "about " if visit.backend.counts_are_estimates else ""
    return confirmation(
        f"Purge {queue.name}?",
        f"This deletes all messages of the queue, {about}{queue.total:,} now, those in flight included. "
        "They cannot be restored.",
        "Purge",
        f"queues/{queue.arn}",
    )


def purge(visit: Visit) -> Redirect:
    _, queue = find(visit)
    visit.backend.purge(queue.arn)
    return Redirect(f"queues/{queue.arn}", f"{queue.name} is purged.")


def ask_delete(visit: Visit) -> Page:
    _, queue = find(visit)
    return confirmation(
        f"Delete {queue.name}?",
        f"This deletes the queue and its messages, {queue.total:,} now. Its subscriptions stay and deliver nothing.",
        "Delete",
        f"queues/{queue.arn}",
    )


def delete(visit: Visit) -> Redirect:
    _, queue = find(visit)
    visit.backend.delete_queue(queue.arn)
    return Redirect("", f"{queue.name} is deleted.")


def messages_in_words(number: int) -> str:
    """Return a number of messages in words."""
    return "1 message" if number == 1 else f"{number:,} messages"


def find(visit: Visit) -> tuple[Overview, Queue]:
    """Return what the broker has, and the queue of the address."""
    overview = visit.backend.overview()
    queue = overview.queue(visit.arguments[0])
    if queue is None:
        raise NotFoundError(f"The queue {visit.arguments[0]} does not exist.")
    return overview, queue
