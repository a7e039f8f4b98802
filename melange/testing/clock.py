"""A clock that stands still until a test moves it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class ManualClock:
    """A ``melange.clock.Clock`` that moves only by ``advance``. Thread-safe.

    ``monotonic`` starts at 0, ``now`` at noon on 2026-01-01 UTC. A waiting thread is woken by the ``advance``
    that reaches its time, or by a notification.

    Args:
        stuck_after_seconds: of real time. A longer wait raises, so that a test that does not advance the
            clock fails with a reason and does not hang.
    """

    def __init__(self, *, stuck_after_seconds: float = 30) -> None:
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._start = datetime(2026, 1, 1, 12, tzinfo=UTC)
        self._stuck_after_seconds = stuck_after_seconds
        self._waits: list[tuple[float, threading.Condition]] = []

    @property
    def waiting(self) -> int:
        """The number of waits that are not due yet: a test can poll it until its thread sleeps, or sleeps again."""
        with self._lock:
            return sum(end > self._seconds for end, _ in self._waits)

    def monotonic(self) -> float:
        with self._lock:
            return self._seconds

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass and wake the threads that are due.

        The caller must not hold a condition that others wait on.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back: advance() takes 0 or more seconds, not {seconds!r}")
        with self._lock:
            self._seconds += seconds
            due = [condition for end, condition in self._waits if end <= self._seconds]
        # Outside our lock: a waiting thread takes its condition first and our lock second.
        for condition in due:
            with condition:
                condition.notify_all()

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Release the held condition until it is notified or ``seconds`` were advanced.

        Raises:
            TimeoutError: neither happened within ``stuck_after_seconds`` of real time.
        """
        with self._lock:
            end = self._seconds + seconds
            if end <= self._seconds:
                return
            entry = (end, condition)
            self._waits.append(entry)
        try:
            # An advance() from here on cannot be missed: it needs the condition, which we still hold.
            woken = condition.wait(self._stuck_after_seconds)
        finally:
            with self._lock:
                self._waits.remove(entry)
        if not woken:
            raise TimeoutError(
                f"waited {self._stuck_after_seconds:g} s of real time on a ManualClock for {seconds:g} s to pass: "
                "advance() it from another thread, or wait for 0 seconds"
            )
