"""Faults, disorder and time of a broker for development."""

from __future__ import annotations

import math
from typing import Any

from melange.console.backend import Controls, NotFoundError, RefusedError
from melange.console.model import Disorder
from melange.console.pages import Page, Redirect, Visit, confirmation
from melange.console.rendering import duration

KINDS = {
    "throttle": "too many calls: the call is refused",
    "error": "a failure of the service: an answer with the status below",
    "delay": "the call is executed after some seconds",
    "hang": "no answer; the connection closes after some seconds",
    "drop-request": "the connection closes before the call is executed",
    "drop-answer": "the call is executed; its answer is lost",
    "cut-answer": "the call is executed; half of its answer comes",
    "repeat": "the call is executed twice",
    "partial": "about half of the entries of a batch fail",
}
OPERATIONS = (
    "SendMessage",
    "SendMessageBatch",
    "ReceiveMessage",
    "DeleteMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch",
    "Publish",
    "PublishBatch",
)
STEPS = (30, 300, 3_600, 43_200)
"""The seconds of the buttons that move the clock."""


def show(visit: Visit) -> Page:
    return _page(visit, {})


def add_fault(visit: Visit) -> Page | Redirect:
    try:
        options = _options(visit)
        _controls(visit).add_fault(options)
    except RefusedError as error:
        typed = {name: visit.text(name) for name in visit.form}
        return _page(visit, typed, str(error), 400)
    return Redirect("faults", f"The fault {options['kind']} strikes from now on.")


def remove_fault(visit: Visit) -> Redirect:
    found = visit.arguments[0]
    if not (found.isascii() and found.isdigit()):
        raise NotFoundError("This fault does not exist.")
    _controls(visit).remove_fault(int(found))
    return Redirect("faults", "The fault is removed.")


def set_disorder(visit: Visit) -> Redirect:
    share = _number(visit, "duplicates") / 100
    _controls(visit).set_disorder(Disorder(share, bool(visit.value("shuffle"))))
    return Redirect("faults", "Standard queues deliver so from now on.")


def advance(visit: Visit) -> Redirect:
    seconds = _number(visit, "seconds")
    _controls(visit).advance(seconds)
    return Redirect("faults", f"The clock is {duration(seconds)} ahead of where it was.")


def ask_reset(visit: Visit) -> Page:
    overview = visit.backend.overview()
    return confirmation(
        "Reset the server?",
        f"This deletes {len(overview.topics)} topics, {len(overview.queues)} queues, their messages, and all faults.",
        "Reset",
        "faults",
    )


def reset(visit: Visit) -> Redirect:
    _controls(visit).reset()
    return Redirect("", "The server is empty.")


def take_snapshot(visit: Visit) -> Redirect:
    name = visit.value("snapshot")
    _controls(visit).take_snapshot(name)
    return Redirect("faults", f"The snapshot {name} is taken.")


def ask_restore(visit: Visit) -> Page:
    name = visit.arguments[0]
    found = next((one for one in _controls(visit).snapshots() if one.name == name), None)
    if found is None:
        raise NotFoundError(f"The snapshot {name} does not exist.")
    return confirmation(
        f"Restore the snapshot {name}?",
        f"All topics, queues and messages are replaced by those of the snapshot, which has {found.messages:,} "
        "messages. Faults and the clock stay.",
        "Restore",
        "faults",
    )


def restore_snapshot(visit: Visit) -> Redirect:
    _controls(visit).restore_snapshot(visit.arguments[0])
    return Redirect("", f"The snapshot {visit.arguments[0]} is restored.")


def remove_snapshot(visit: Visit) -> Redirect:
    _controls(visit).remove_snapshot(visit.arguments[0])
    return Redirect("faults", "The snapshot is removed.")


def _page(visit: Visit, typed: dict[str, Any], error: str = "", status: int = 200) -> Page:
    controls = _controls(visit)
    overview = visit.backend.overview()
    return Page(
        "faults.html",
        {
            "faults": controls.faults(),
            "disorder": controls.disorder(),
            "snapshots": controls.snapshots(),
            "advanced_seconds": controls.advanced_seconds,
            "kinds": KINDS,
            "operations": OPERATIONS,
            "steps": STEPS,
            "names": [topic.name for topic in overview.topics] + [queue.name for queue in overview.queues],
            "typed": typed,
            "error": error,
        },
        status,
    )


def _options(visit: Visit) -> dict[str, Any]:
    options: dict[str, Any] = {"kind": visit.value("kind")}
    for name in ("service", "operation", "name"):
        if visit.value(name):
            options[name] = visit.value(name)
    options["rate"] = _number(visit, "percent", 100.0) / 100
    options["seconds"] = _number(visit, "seconds", 1.0)
    for name in ("times", "status", "seed"):
        if visit.value(name):
            options[name] = int(_number(visit, name))
    return options


def _number(visit: Visit, name: str, default: float = 0.0) -> float:
    text = visit.value(name)
    try:
        number = float(text) if text else default
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RefusedError(f"{name.capitalize()} must be a number, not {text!r:.40}.")
    return number


def _controls(visit: Visit) -> Controls:
    if visit.backend.controls is None:
        raise NotFoundError("This broker has no faults and no clock of its own.")
    return visit.backend.controls
