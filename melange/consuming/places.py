"""The tasks of a worker that wait to begin, and the places for those at work."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from melange.consuming.leases import Lease


class Task(NamedTuple):
    """A step of the work on a delivery: its beginning, or its continuation after a coroutine.

    ``run`` returns True if that was the last step. With ``is_for_loop`` it should run on the event loop: a thread that runs
    it only passes it on.
    """

    run: Callable[[Lease], bool]
    lease: Lease
    is_for_loop: bool = False


class Places:
    """At most ``size`` deliveries at work, and those that wait for a place, in the order of their arrival. Thread-safe.

    The worker's threads and its event loop share them: if one takes a task that it cannot run, it passes the task on,
    with its place. So all queues wait in one line, and none can keep its places for itself.

    Everything that is done once for each delivery is one atomic operation, without a lock in Python.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.wake_threads: Callable[[int], None] = lambda count: None
        """Called when so many more tasks for threads may begin."""
        self.wake_loop: Callable[[], None] = lambda: None
        """Called when tasks for the event loop may begin."""
        self._tasks: deque[Task] = deque()
        self._free = [None] * size
        self._putting = threading.Lock()
        self._closed = False
        self._paused = False

    @property
    def free(self) -> int:
        """The number of tasks that could start now; 0 or less if some wait already."""
        return len(self._free) - len(self._tasks)

    def put(self, tasks: Sequence[Task]) -> bool:
        """Begin the tasks, each as soon as there is a place for it; return False after ``close``, when none will begin."""
        with self._putting:  # nothing is put behind the back of close()
            if self._closed:
                return False
            self._tasks.extend(tasks)
        self._wake(tasks)
        return True

    def can_take(self) -> bool:
        """Return True if a task waits, and there is a place for it."""
        return bool(self._tasks and self._free and not self._paused)

    def take(self) -> Task | None:
        """Return the next task, which has a place now; None if there is none or no place for it."""
        while self._tasks and not self._paused:
            try:
                self._free.pop()
            except IndexError:
                return None
            try:
                return self._tasks.popleft()
            except IndexError:  # another thread was faster; a task that came meanwhile saw no free place
                self._free.append(None)
        return None

    def vacate(self) -> None:
        """Free a place, at the end of a task: the caller takes the next task as well."""
        self._free.append(None)

    def pause(self) -> None:
        """Begin no task until ``resume``; running ones continue."""
        self._paused = True

    def resume(self) -> None:
        """Begin tasks again."""
        self._paused = False
        self._wake(list(self._tasks))

    def close(self) -> list[Task]:
        """Begin no further task; return those that have not begun."""
        with self._putting:
            self._closed = True
            waiting: list[Task] = []
            while self._tasks:
                waiting.append(self._tasks.popleft())
        return waiting

    def _wake(self, tasks: Sequence[Task]) -> None:
        for_loop = sum(task.is_for_loop for task in tasks)
        if for_loop and self._free:  # otherwise the end of a delivery on the loop begins the next one
            self.wake_loop()
        if for_loop < len(tasks):
            self.wake_threads(len(tasks) - for_loop)
