"""A queue: its depths, its messages, and what can be done to all of them."""

from __future__ import annotations

from melange.console.backend import NotFoundError, Overview, Queue
from melange.console.reading import preview, read
from melange.console.visits import Page, Redirect, Visit


def show(visit: Visit) -> Page:
    overview, queue = find(visit)
    query = visit.query
    text, state = query.get("text", ""), query.get("state", "")
    found = visit.backend.messages(queue.arn, after=query.get("after"), text=text, state=state)
    rows = [(message, read(message), preview(message)) for message in found.messages]
    return Page(
        "queue.html",
        {"overview": overview, "queue": queue, "found": found, "rows": rows, "text": text, "state": state},
    )


def ask_purge(visit: Visit) -> Page:
    _, queue = find(visit)
    return Page(
        "confirm.html",
        {
            "title": f"Purge {queue.name}?",
            "text": f"This deletes all {queue.total:,} messages of the queue. They cannot be restored.",
            "button": "Purge",
            "back": f"queues/{queue.arn}",
        },
    )


def purge(visit: Visit) -> Redirect:
    _, queue = find(visit)
    visit.backend.purge(queue.arn)
    return Redirect(f"queues/{queue.arn}", f"{queue.name} is purged.")


def find(visit: Visit) -> tuple[Overview, Queue]:
    """Return what the broker has, and the queue of the address."""
    overview = visit.backend.overview()
    queue = overview.queue(visit.arguments[0])
    if queue is None:
        raise NotFoundError(f"There is no queue {visit.arguments[0]}.")
    return overview, queue
