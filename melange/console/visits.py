"""What the handler of a page gets, a visit, and what it returns: a page or a redirect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from melange.console.backend import Backend

if TYPE_CHECKING:
    from melange.console.depth_history import History


@dataclass(frozen=True, slots=True)
class Visit:
    """A request for a page, or a form that was sent from one.

    ``arguments`` are what the braces of its address stand for. ``form`` has each field with all its values.
    """

    backend: Backend
    history: History
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
