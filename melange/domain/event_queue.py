"""The waiting events of one thread or task."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from melange.domain.blocks import running_task
from melange.errors import CascadeError


class Drain:
    """The event that one thread or task is handling, and its waiting events.

    ``is_busy`` is True while a publish runs: later events wait in ``queue``, and calls that must follow all of them
    wait in ``afterwards``. ``awaits`` is True if asynchronous handlers may be called: then ``task`` is the publishing
    task, None outside of tasks. A child task starts with the same object. ``event`` is the one that is being handled.

    A drain that holds events until a block ends (``holds``) is always busy, handles none, and has its ``task`` too.
    ``is_left`` is True if its block has ended in another thread or task; it is busy then, so that a publish looks for
    another drain. ``outer`` is the drain that it replaces; in a scope, it is the drain around the scope.
    """

    __slots__ = (
        "afterwards",
        "awaits",
        "count",
        "event",
        "holds",
        "is_busy",
        "is_left",
        "outer",
        "queue",
        "task",
    )

    def __init__(self, outer: Drain | None = None) -> None:
        self.outer = outer
        self.holds = False
        self.is_left = False
        self.is_busy = False
        self.event: object | None = None
        self.awaits = False
        self.task: object | None = None
        self.queue: deque[object] | None = None
        self.afterwards: deque[tuple[object, Callable[[], object]]] | None = None
        self.count = 0

    def begin(self, events: Iterable[object]) -> None:
        """Queue the events that are published first, from which others may follow."""
        self.queue = deque(events)
        self.count = 0

    def add(self, events: Iterable[object], limit: int) -> None:
        """Queue events.

        Raises:
            CascadeError: ``limit`` events have followed from the first one.
        """
        queue = self._waiting()
        for event in events:
            if not self.holds:
                self.count += 1
                if self.count > limit:
                    raise CascadeError(limit, [type(last).__qualname__ for last in [*queue, event][-4:]])
            queue.append(event)

    def add_afterwards(self, call: Callable[[], object]) -> None:
        """Queue a call until all events are handled; the current event is its event too."""
        self._waiting()
        if self.afterwards is None:
            self.afterwards = deque()
        self.afterwards.append((self.event, call))

    def _waiting(self) -> deque[object]:
        if self.queue is None:
            self.queue = deque()
            self.count = 0
        return self.queue


def holding(outer: Drain, *, awaits: bool) -> Drain:
    """Return a drain that holds events for ``outer``."""
    drain = Drain(outer)
    drain.holds = drain.is_busy = True
    drain.awaits = awaits
    drain.task = running_task()
    return drain


def in_use(drain: Drain) -> Drain:
    """Return the drain, or its outer one if it held events for a block that has ended elsewhere."""
    while drain.is_left and drain.outer is not None:
        drain = drain.outer
    return drain
