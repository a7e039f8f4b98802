"""Waits that end when a relay stops."""

from __future__ import annotations

import threading

from melange.clock import Clock


class StopSignal:
    """A flag that asks to stop; it is set once. Thread-safe, and safe in signal handlers."""

    def __init__(self) -> None:
        self._condition = threading.Condition()  # with a lock that a signal handler may take again
        self._is_set = False

    def set(self) -> None:
        """Ask all to stop, and end their waits."""
        with self._condition:
            self._is_set = True
            self._condition.notify_all()

    def is_set(self) -> bool:
        """Return True if a stop was requested."""
        return self._is_set

    def wait(self, seconds: float, clock: Clock) -> None:
        """Return after ``seconds`` of the clock, or as soon as a stop is requested."""
        with self._condition:
            if not self._is_set and seconds > 0:
                clock.wait(self._condition, seconds)
