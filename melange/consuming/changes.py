"""Waiting until something has changed in a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable


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
