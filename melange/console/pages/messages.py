"""One message, and what can be done to messages that are selected."""

from __future__ import annotations

from collections.abc import Sequence

from melange.console.backend import RefusedError
from melange.console.model import Message, Queue
from melange.console.pages.queues import find, messages_in_words
from melange.console.reading import dead_letter_of, read
from melange.console.visits import Page, Redirect, Visit, confirmation


def show(visit: Visit) -> Page:
    overview, queue = find(visit)
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
            "letter": dead_letter_of(message) if queue.holds_dead_letters else None,
            "others": [one for one in overview.queues if one.is_fifo == queue.is_fifo and one is not queue],
        },
    )


def _following(visit: Visit, key: str) -> Sequence[Message]:
    return visit.backend.messages(visit.arguments[0], after=key, limit=1).messages


def release(visit: Visit) -> Redirect:
    arn, key = visit.arguments
    visit.backend.release(arn, key)
    return Redirect(f"queues/{arn}/messages/{key}", "The message is visible now.")


def change_selected(visit: Visit) -> Page | Redirect:
    """Retry, move or delete the messages with the keys in the form; ask before they are deleted."""
    _, queue = find(visit)
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
            back, f"{messages_in_words(number)} moved back to where {'it' if number == 1 else 'they'} failed."
        )
    if action == "move":
        target = visit.value("target")
        number = visit.backend.move(queue.arn, keys, target)
        return Redirect(back, f"{messages_in_words(number)} moved to {target.rpartition(':')[2]}.")
    if action == "delete":
        return Redirect(back, f"{messages_in_words(visit.backend.delete(queue.arn, keys))} deleted.")
    raise RefusedError("Choose an action: retry, move or delete.")


_CONFIRMATIONS = {
    "delete": ("Delete", "They are deleted from {} and cannot be restored."),
    "move": ("Move", "They move from {} to another queue, where consumers may receive them at once."),
    "retry": ("Retry", "They move from {} back to the queues where they failed, and are received again."),
}


def _asked(visit: Visit, action: str, keys: list[str], queue: Queue) -> Page:
    verb, text = _CONFIRMATIONS[action]
    fields = [("action", action), ("target", visit.value("target")), ("is_sure", "yes")]
    return confirmation(
        f"{verb} {messages_in_words(len(keys))}?",
        text.format(queue.name),
        verb,
        f"queues/{queue.arn}",
        [*fields, *(("key", key) for key in keys)],
    )
