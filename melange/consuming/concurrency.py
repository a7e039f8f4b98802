"""How many deliveries a worker works on: the limits of each queue, the places for those at work, and the wait for a change.

Deliveries of all queues wait in one line for a place. Each queue has a limit of deliveries in flight, and a share of the
places while the worker is slow.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from melange.consuming.leases import Lease
from melange.errors import ConfigurationError, is_whole_number, nearest

AHEAD = 90
"""The most deliveries in flight beyond those being processed: ten that wait, forty being received, forty being settled.
Of a larger worker it may be as many as are processed."""


class QueuePart(NamedTuple):
    """One queue's part of a worker.

    ``limit`` is the most deliveries in flight: received and not yet settled, including waiting retries. ``share`` is
    the most of them that run at once while the worker is slow: the threads beyond it are kept free for the other
    queues. ``kept`` is the number that it can always have at work or waiting for a thread, however many deliveries the
    other queues have received ahead.
    """

    limit: int
    share: int
    kept: int


def parts_of(queue_names: Sequence[str], size: int, weights: Mapping[str, int] | None) -> list[QueuePart]:
    """Return the part of each queue of a worker with ``size`` threads.

    Without weights each queue may use all threads but one for each other queue. With weights, the threads are kept in
    proportion to them, and so are the deliveries in flight.

    Raises:
        ConfigurationError: a weight is out of bounds, or for no queue of the worker.
    """
    limit = size + max(AHEAD, size)
    if weights is None:
        return [QueuePart(limit, size - len(queue_names) + 1, 1)] * len(queue_names)
    _check(queue_names, weights)
    of_each = [weights.get(name, 1) for name in queue_names]
    total, largest = sum(of_each), max(of_each)
    kept = [max(1, size * weight // total) for weight in of_each]
    return [
        QueuePart(
            limit=max(1, limit * weight // largest),
            share=max(1, size - sum(kept) + own),
            kept=own,
        )
        for weight, own in zip(of_each, kept, strict=True)
    ]


def _check(queue_names: Sequence[str], weights: Mapping[str, int]) -> None:
    if not isinstance(weights, Mapping):
        raise ConfigurationError(f"weights= takes a dict of numbers by queue names, not {weights!r}")
    for name, weight in weights.items():
        if name not in queue_names:
            raise ConfigurationError(
                f"weights= names queue {name!r}, which this worker does not have{nearest(name, queue_names)}"
            )
        if not is_whole_number(weight) or not 1 <= weight <= 1_000:
            raise ConfigurationError(
                f"the weight of queue {name!r} must be a whole number from 1 to 1,000, not {weight!r}"
            )


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
        """Called when tasks for the event loop may begin; it raises RuntimeError if there cannot be one."""
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
            try:
                self.wake_loop()
            except RuntimeError:
                # The system cannot start the thread of the loop: threads find that out, and go on.
                for_loop = 0
        if for_loop < len(tasks):
            self.wake_threads(len(tasks) - for_loop)


class Changes:
    """Wakes threads that wait for a condition, when something has changed that it may depend on. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiters = 0

    def wait_for(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        """Return True as soon as the condition holds, checked at each ``notify``; False after the timeout."""
        with self._condition:
            self._waiters += 1
            try:
                return self._condition.wait_for(condition, timeout_seconds)
            finally:
                self._waiters -= 1

    def notify(self) -> None:
        """Have the waiting threads check their conditions."""
        if self._waiters:  # read without the lock: a waiter checks once more after it counted itself
            with self._condition:
                self._condition.notify_all()
