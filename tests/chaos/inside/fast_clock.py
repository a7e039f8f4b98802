"""A clock for simulated hours."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta


class FastClock:
    """A ``melange.clock.Clock`` on which ``speed`` seconds pass in each real one. Thread-safe."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._began_at = time.monotonic()

    def monotonic(self) -> float:
        return (time.monotonic() - self._began_at) * self._speed

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.monotonic())

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        condition.wait(self.real(seconds))

    def sleep(self, seconds: float) -> None:
        """Sleep for simulated seconds; 0 for what is over."""
        time.sleep(max(0.0, self.real(seconds)))

    def real(self, seconds: float) -> float:
        """Return the real seconds that the simulated ones take."""
        return seconds / self._speed
