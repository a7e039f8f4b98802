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
        """Run the task on a thread, after ``delay_seconds``; False after ``close``, when it is not run."""
        with self._changed:
            if self._closed:
                return False
            heapq.heappush(self._tasks, (time.monotonic() + delay_seconds, next(self._order), task))
            if self._idle:
                self._changed.notify()
            elif len(self._threads) < self._size:
                self._start_thread()
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

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

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
                    self._changed.wait(self._tasks[0][0] - now if self._tasks else None)
                finally:
                    self._idle -= 1
            return None
