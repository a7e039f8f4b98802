"""Deduplication by FIFO topics and queues: an id counts once within five minutes."""

from __future__ import annotations

import math
from collections import deque

from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS


class DeduplicationWindow:
    """The deduplication ids of the last five minutes.

    An id is remembered from its first use, whatever happens to the message, and a repetition does not
    extend that. Forgetting costs as much as remembering.
    """

    __slots__ = ("_by_age", "_forget_at")

    def __init__(self) -> None:
        self._forget_at: dict[str | None, float] = {}
        self._by_age: deque[tuple[float, str | None]] = deque()

    def __len__(self) -> int:
        return len(self._forget_at)

    def holds(self, deduplication_id: str | None, now: float) -> bool:
        """Return True if the id was used within the last five minutes."""
        return self._forget_at.get(deduplication_id, now) > now

    def remember(self, deduplication_id: str | None, used_at: float) -> None:
        """Remember an id that the window does not hold, and forget ids that are too old."""
        forget_at, by_age = self._forget_at, self._by_age
        while by_age and by_age[0][0] <= used_at:
            oldest = by_age[0][1]
            if forget_at.get(oldest, math.inf) <= used_at:
                del forget_at[oldest]
            by_age.popleft()
        until = used_at + DEDUPLICATION_SECONDS
        by_age.append((until, deduplication_id))
        forget_at[deduplication_id] = until

    def clear(self) -> None:
        """Forget everything."""
        self._forget_at.clear()
        self._by_age.clear()
