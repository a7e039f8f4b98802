"""The events of one thread or task that wait until those before them were handled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from melange.domain.tasks import running_task
from melange.errors import CascadeError


class Drain:
    """What one thread or task is publishing, and what waits meanwhile.

    ``is_busy`` says that a publish is running: what is published meanwhile waits in ``queue``, and what must not
    begin before all of that was handled waits in ``afterwards``. ``awaits`` is true where asynchronous handlers
    may be called: there ``task`` is the task that publishes, None outside of tasks. A child task starts with the
    same object. ``event`` is the one that is being handled.

    A drain that holds events back until a block ends (``holds``) is always busy, handles none, and knows its
    ``task`` too. ``is_left`` says that its block has ended, in another thread or task than it was begun in; it is
    busy then, so that a publish which still finds it looks for another one. ``outer`` is the one that it stands for; that of a
    scope has the one around the scope there.
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
        """Let the events wait that are published first, from which others may follow."""
        self.queue = deque(events)
        self.count = 0

    def add(self, events: Iterable[object], limit: int) -> None:
        """Let events wait for their turn.

        Raises:
            CascadeError: ``limit`` events have followed from the one that was published first.
        """
        queue = self._waiting()
        for event in events:
            if not self.holds:
                self.count += 1
                if self.count > limit:
                    raise CascadeError(limit, [type(last).__qualname__ for last in [*queue, event][-4:]])
            queue.append(event)

    def add_afterwards(self, call: Callable[[], object]) -> None:
        """Let a call wait until all events were handled; the one that is being handled now is its event too."""
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
    """Return a drain that holds events back for ``outer``."""
    drain = Drain(outer)
    drain.holds = drain.is_busy = True
    drain.awaits = awaits
    drain.task = running_task()
    return drain


def in_use(drain: Drain) -> Drain:
    """Return the drain, or that around it if it held events back for a block that has ended elsewhere."""
    while drain.is_left and drain.outer is not None:
        drain = drain.outer
    return drain
