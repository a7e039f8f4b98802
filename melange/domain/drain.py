"""What one thread or task is publishing."""

from __future__ import annotations

from asyncio import Task, _get_running_loop, current_task
from collections import deque
from collections.abc import Iterable
from typing import Any

from melange.errors import CascadeError


class Drain:
    """The events of one thread or task that wait until those before them were handled.

    ``is_busy`` says that somebody publishes: what is published meanwhile waits in ``queue``. ``awaits`` is true
    where asynchronous handlers may be called: there ``task`` is that somebody, None outside of asyncio. A child
    task has the same object at first, and is another one. ``event`` is the one that is being handled.

    The one that holds events back until a block ends (``holds``) is always busy, handles none, and knows its
    ``task`` too. ``outer`` is the one that it stands for; that of a scope has the one around the scope there.
    """

    __slots__ = ("awaits", "count", "event", "holds", "is_busy", "outer", "queue", "task")

    def __init__(self, outer: Drain | None = None) -> None:
        self.outer = outer
        self.holds = False
        self.is_busy = False
        self.event: object | None = None
        self.awaits = False
        self.task: Task[Any] | None = None
        self.queue: deque[object] | None = None
        self.count = 0

    def add(self, events: Iterable[object], limit: int) -> None:
        """Let events wait for their turn.

        Raises:
            CascadeError: ``limit`` events have followed from the one that was published first.
        """
        if self.queue is None:
            self.queue = deque()
            self.count = 0
        for event in events:
            if not self.holds:
                self.count += 1
                if self.count > limit:
                    raise CascadeError(limit, [type(last).__qualname__ for last in [*self.queue, event][-4:]])
            self.queue.append(event)


def holding(outer: Drain, *, awaits: bool) -> Drain:
    """Return a drain that holds events back for ``outer``."""
    drain = Drain(outer)
    drain.holds = drain.is_busy = True
    drain.awaits = awaits
    drain.task = running_task()
    return drain


def running_task() -> Task[Any] | None:
    """Return the asyncio task that runs in this thread, if any."""
    loop = _get_running_loop()
    return None if loop is None else current_task(loop)
