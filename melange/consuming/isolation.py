"""Possible poison messages, run one at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from melange.consuming.suspects import Suspects
from melange.consuming.threads import Task, Threads

LONGEST_WAIT_FOR_OTHERS_SECONDS = 30.0
LONGEST_ALONE_SECONDS = 60.0


class Isolation:
    """Runs suspects one at a time, with nothing else at work in the worker. Thread-safe.

    A suspect waits for what is at work, and others wait for it, both for a limited time: a run of minutes must not stop
    the worker, nor the other suspects. ``is_settled`` returns True if everything that has finished is acknowledged, too.
    """

    def __init__(self, threads: Threads, suspects: Suspects, is_settled: Callable[[], bool]) -> None:
        self._threads = threads
        self._suspects = suspects
        self._is_settled = is_settled
        self._lock = threading.Lock()
        self._waiting: deque[Task] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, tasks: Sequence[Task]) -> bool:
        """Run each of the tasks alone, soon; return False after ``close``, when none of them will run."""
        with self._lock:
            if self._closed:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="melange-isolation", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system cannot start a thread: better among others than never
                    return self._threads.put(tasks)
                self._thread = thread
            self._waiting.extend(tasks)
            return True

    def close(self) -> list[Task]:
        """Start no further task; return the tasks that have not started."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
        self._threads.changed()
        return waiting

    def _run(self) -> None:
        while self._has_next():
            self._threads.pause()
            try:
                self._threads.wait_for(self._may_begin, LONGEST_WAIT_FOR_OTHERS_SECONDS)
                self._run_next()
            finally:
                self._threads.resume()

    def _has_next(self) -> bool:
        with self._lock:
            if self._waiting:
                return True
            self._thread = None
            return False

    def _may_begin(self) -> bool:
        # What takes longer than others are waited for is not waited for again.
        return self._closed or (self._threads.is_idle(LONGEST_WAIT_FOR_OTHERS_SECONDS) and self._is_settled())

    def _run_next(self) -> None:
        with self._lock:
            if not self._waiting:  # closed meanwhile
                return
            task = self._waiting.popleft()
            try:
                thread = self._threads.run_apart(task)  # under the lock, so that close() and join() see it
            except RuntimeError:
                self._threads.put([task])
                return
        thread.join(LONGEST_ALONE_SECONDS)
        self._suspects.survived()
