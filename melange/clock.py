"""The clock, which tests can replace."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The clock that melange uses. Implementations are thread-safe."""

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
    """The clock of the machine."""

    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        condition.wait(seconds)
