"""Time, given from outside so that tests can hold it still."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What melange asks of time. Implementations are thread-safe."""

    def monotonic(self) -> float:
        """Return seconds that never go back; only differences mean anything."""
        ...

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        ...

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Release the held condition until it is notified or ``seconds`` have passed."""
        ...


class SystemClock:
    """The machine's own time."""

    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        condition.wait(seconds)
