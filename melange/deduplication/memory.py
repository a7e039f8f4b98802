"""A deduplication store in this process's memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import ClassVar

from melange.clock import Clock, SystemClock
from melange.deduplication.base import Claimed, ClaimRefusal, DeduplicationKey, DeduplicationStore

DEFAULT_RETENTION_SECONDS = 18 * 24 * 3600.0
"""As long as a message can come back: a queue's default 4 days and its dead-letter queue's 14."""


_SMALLEST_SWEEP = 1_000


class MemoryDeduplicationStore(DeduplicationStore):
    """Marks kept in memory, for the consumers of one process; gone when it ends.

    Bounded by time (``retention_seconds``) and by size: beyond ``max_marks`` the oldest marks are
    forgotten, at about 400 bytes each. Claims are never forgotten before their lease runs out.
    """

    _shared: ClassVar[MemoryDeduplicationStore | None] = None
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        *,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        max_marks: int = 1_000_000,
        clock: Clock | None = None,
    ) -> None:
        self._retention_seconds = retention_seconds
        self._max_marks = max_marks
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._claims: dict[DeduplicationKey, tuple[str, float]] = {}
        self._sweep_at = _SMALLEST_SWEEP
        # Oldest first: a plain dict would be slow to take the oldest from, over and over.
        self._marks: OrderedDict[DeduplicationKey, float] = OrderedDict()

    @classmethod
    def shared(cls) -> MemoryDeduplicationStore:
        """Return the store that all consumers of this process use by default."""
        with cls._shared_lock:
            if cls._shared is None:
                cls._shared = cls()
            return cls._shared

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        with self._lock:
            now = self._clock.monotonic()
            if key in self._marks:
                if self._marks[key] > now:
                    return ClaimRefusal.DONE
                del self._marks[key]
            holder = self._claims.get(key)
            if holder is not None and holder[0] != token and holder[1] > now:
                return ClaimRefusal.BUSY
            self._claims[key] = (token, now + lease_seconds)
            if len(self._claims) > self._sweep_at:
                self._forget_expired_claims(now)
            return Claimed(key, token)

    def complete(self, claimed: Claimed) -> bool:
        with self._lock:
            if not self._holds(claimed):
                return False
            del self._claims[claimed.key]
            now = self._clock.monotonic()
            self._marks[claimed.key] = now + self._retention_seconds
            self._forget_oldest_mark(now)
            return True

    def abandon(self, claimed: Claimed) -> bool:
        with self._lock:
            if not self._holds(claimed):
                return False
            del self._claims[claimed.key]
            return True

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        with self._lock:
            if not self._holds(claimed):
                return False
            self._claims[claimed.key] = (claimed.token, self._clock.monotonic() + lease_seconds)
            return True

    def __len__(self) -> int:
        """Return how many marks are held."""
        return len(self._marks)

    def _holds(self, claimed: Claimed) -> bool:
        # A lease that ran out while nobody else took over still counts: the work was done.
        holder = self._claims.get(claimed.key)
        return holder is not None and holder[0] == claimed.token

    def _forget_expired_claims(self, now: float) -> None:
        """Forget claims of crashed listeners whose messages never came back; each time twice as many are there."""
        self._claims = {key: holder for key, holder in self._claims.items() if holder[1] > now}
        self._sweep_at = max(_SMALLEST_SWEEP, 2 * len(self._claims))

    def _forget_oldest_mark(self, now: float) -> None:
        # One mark comes, so at most one has to go for its size, and the expired go as fast as new ones come.
        oldest = next(iter(self._marks))
        if self._marks[oldest] <= now or len(self._marks) > self._max_marks:
            del self._marks[oldest]
