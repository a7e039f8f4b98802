"""The event log: messages that a search finds, and what happened to one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from melange.console.backend import Log, NotFoundError
from melange.console.pages import Page, Visit
from melange.console.reading import indented
from melange.console.rendering import duration
from melange.server.calls import Caller
from melange.server.contents import decoded
from melange.server.stories import Event, Story

_SHOWN_STORIES = 100

_BAD_KINDS = {"not delivered", "HTTP delivery failed", "dead-lettered", "expired", "lease expired"}


class Step(NamedTuple):
    """An event as the page shows it. ``after`` is the time since the first event, ``by`` the client or ""."""

    event: Event
    after: str
    by: str
    visible: str
    is_bad: bool


def search(visit: Visit) -> Page:
    wanted = {name: visit.query.get(name, "").strip() for name in ("message_id", "event_type", "text")}
    log = _log(visit)
    return Page(
        "log.html",
        {
            "overview": visit.backend.overview(),
            "stories": log.find(**wanted, limit=_SHOWN_STORIES),
            "shown_stories": _SHOWN_STORIES,
            "forgotten": log.forgotten,
            "wanted": wanted,
        },
    )


def show(visit: Visit) -> Page:
    story = _log(visit).story(visit.arguments[0])
    text = decoded(story.body)
    pretty = indented(text)
    return Page(
        "story.html",
        {
            "overview": visit.backend.overview(),
            "story": story,
            "steps": _steps(story),
            "body": text if pretty is None else pretty,
            "is_json": pretty is not None,
        },
    )


def _log(visit: Visit) -> Log:
    if visit.backend.log is None:
        raise NotFoundError("This broker does not tell what happened to its messages.")
    return visit.backend.log


def _steps(story: Story) -> Sequence[Step]:
    first = story.events[0].at
    return [
        Step(
            event, _after(event.at - first), _client(event.caller), _visible(event), event.kind in _BAD_KINDS
        )
        for event in story.events
    ]


def _after(seconds: float) -> str:
    return f"+{seconds:.3f} s" if seconds < 60 else f"+{duration(seconds)}"


def _visible(event: Event) -> str:
    if event.kind not in {"received", "visibility changed", "sent"} or (
        event.kind == "sent" and not event.visible_at
    ):
        return ""
    if event.visible_at <= event.at:
        return "visible at once"
    return f"invisible for {duration(event.visible_at - event.at)}"


def _client(caller: Caller | None) -> str:
    """Return a client as the beginning of its user agent, with the name of its application if it gives one."""
    if caller is None:
        return ""
    words = caller.user_agent.split()
    if "melange" in words[:1]:
        return "the console"
    application = next((word.removeprefix("app/") for word in words if word.startswith("app/")), "")
    named = [
        application,
        words[0] if words else "",
        f"key {caller.access_key_id}" if caller.access_key_id else "",
    ]
    return ", ".join(filter(None, named))
