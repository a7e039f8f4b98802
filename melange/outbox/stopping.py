"""Waiting that ends when a relay is told to stop."""

from __future__ import annotations

import threading

from melange.clock import Clock


class StopSignal:
    """Whether to stop; it is set once and stays so. Thread-safe, and safe in signal handlers."""

    def __init__(self) -> None:
        self._condition = threading.Condition()  # with a lock that a signal handler may take again
        self._is_set = False

    def set(self) -> None:
        """Tell all to stop, and end their waits."""
        with self._condition:
            self._is_set = True
            self._condition.notify_all()

    def is_set(self) -> bool:
        """Return True if it was told to stop."""
        return self._is_set

    def wait(self, seconds: float, clock: Clock) -> None:
        """Return after ``seconds`` of the clock, or as soon as it is told to stop."""
        with self._condition:
            if not self._is_set and seconds > 0:
                clock.wait(self._condition, seconds)
