"""What the bus is in one thread or task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from melange.domain.drain import Drain
from melange.domain.routes import NO_ROUTES, Routes
from melange.domain.thread_variable import ThreadVariable

OnCommit = Callable[[Callable[[], None]], object]
"""Has a call made when the transaction of the moment was committed, never if it is rolled back, at once if there is none."""


@dataclass(frozen=True, slots=True)
class Local:
    """The subscribers, what is being published, and how to wait for a commit. Replaced, never changed."""

    routes: Routes
    drain: Drain
    on_commit: OnCommit | None = None


LocalVariable = ThreadVariable[Local]


def nobody_subscribed() -> Local:
    """Return what a new thread starts with."""
    return Local(NO_ROUTES, Drain())
