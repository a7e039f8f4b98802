"""Daemon threads that run tasks, now or later."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

Task = Callable[[], None]

_LONGEST_WAIT_SECONDS = 3600.0
"""What is due later is looked at again: the system's own timers refuse waits of centuries."""


class Pool:
    """Runs tasks on at most ``size`` threads, which are started as they are needed.

    Not a ``ThreadPoolExecutor``, which joins its threads when the interpreter exits: a listener that
    hangs would keep the process from ending.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._changed = threading.Condition()
        self._tasks: list[tuple[float, int, Task]] = []
        self._order = (
            itertools.count()
        )  # tasks that are due at the same time run in the order of their coming
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def submit(self, task: Task, delay_seconds: float = 0.0) -> bool:
        """Run the task on a thread, after ``delay_seconds``; False when it will not be run, as after ``close``."""
        with self._changed:
            if self._closed:
                return False
            # A thread that was notified counts as idle until it runs: there is one for each task that waits, or
            # tasks that come together would run one after another.
            if (
                len(self._tasks) >= self._idle
                and len(self._threads) < self._size
                and not self._start_thread()
            ):
                return False
            heapq.heappush(self._tasks, (time.monotonic() + delay_seconds, next(self._order), task))
            self._changed.notify()
            return True

    def close(self) -> list[Task]:
        """Return the tasks that have not begun, which are not run; those at work go on."""
        with self._changed:
            self._closed = True
            waiting = [task for _, _, task in sorted(self._tasks)]
            self._tasks.clear()
            self._changed.notify_all()
            return waiting

    def join(self, deadline: float) -> bool:
        """Wait until the tasks at work have ended, ``deadline`` (monotonic) at the latest; return whether."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def __contains__(self, thread: threading.Thread) -> bool:
        return thread in self._threads

    def _start_thread(self) -> bool:
        """Start one more thread if the system lets us; return whether there is any."""
        thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads to give
            logger.exception("the worker goes on with %d threads", len(self._threads))
            return bool(self._threads)
        self._threads.append(thread)
        return True

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception:
                logger.exception("a task of the worker failed")

    def _next(self) -> Task | None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._tasks and self._tasks[0][0] <= now:
                    return heapq.heappop(self._tasks)[2]
                self._idle += 1
                try:
                    self._changed.wait(
                        min(self._tasks[0][0] - now, _LONGEST_WAIT_SECONDS) if self._tasks else None
                    )
                finally:
                    self._idle -= 1
            return None
