"""The pages, a module for each kind. The handler of a page gets a visit, and returns a page or a redirect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from melange.console.backend import Backend, NotFoundError
from melange.console.charts import QueueHistory
from melange.console.model import Overview, Queue, Topic


@dataclass(frozen=True, slots=True)
class Visit:
    """A request for a page, or a form that was sent from one.

    ``arguments`` are what the braces of its address stand for. ``form`` has each field with all its values.
    """

    backend: Backend
    history: QueueHistory
    arguments: Sequence[str] = ()
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def value(self, name: str) -> str:
        """Return the value of a field without spaces around it; "" if it is missing."""
        return self.text(name).strip()

    def text(self, name: str) -> str:
        """Return the value of a field as it was sent, with lines that end as in Python."""
        values = self.form.get(name) or [""]
        return values[0].replace("\r\n", "\n")

    def find_queue(self) -> tuple[Overview, Queue]:
        """Return what the broker has, and the queue of the address; raise ``NotFoundError`` if it does not exist."""
        overview = self.backend.overview()
        queue = overview.queue(self.arguments[0])
        if queue is None:
            raise NotFoundError(f"The queue {self.arguments[0]} does not exist.")
        return overview, queue

    def find_topic(self) -> tuple[Overview, Topic]:
        """Return what the broker has, and the topic of the address; raise ``NotFoundError`` if it does not exist."""
        overview = self.backend.overview()
        topic = overview.topic(self.arguments[0])
        if topic is None:
            raise NotFoundError(f"The topic {self.arguments[0]} does not exist.")
        return overview, topic


@dataclass(frozen=True, slots=True)
class Page:
    """A page: the name of its template and the values in it."""

    template: str
    values: Mapping[str, Any]
    status: int = 200


def confirmation(
    title: str, text: str, button: str, back: str, fields: Sequence[tuple[str, str]] = ()
) -> Page:
    """Return the page that asks before an action: ``button`` sends ``fields`` to the same address, Cancel goes ``back``."""
    values = {"title": title, "text": text, "button": button, "back": back, "fields": fields}
    return Page("confirm.html", values)


@dataclass(frozen=True, slots=True)
class Redirect:
    """Shows the page at ``path`` instead, with a notice of what was done, and the path of a page with more about it."""

    path: str
    notice: str = ""
    more: str = ""


Handler = Callable[[Visit], Page | Redirect]
