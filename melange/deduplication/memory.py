"""A deduplication store in this process's memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import ClassVar

from melange.clock import Clock, SystemClock
from melange.deduplication.base import Claimed, ClaimRefusal, DeduplicationKey, DeduplicationStore

DEFAULT_RETENTION_SECONDS = 18 * 24 * 3600.0
"""As long as a message can come back: a queue's default 4 days and its dead-letter queue's 14."""


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
        # Both are kept oldest first. A plain dict would be slow to take the oldest from, over and over.
        self._claims: OrderedDict[DeduplicationKey, tuple[str, float]] = OrderedDict()
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
            if self._marks.get(key, now) > now:
                return ClaimRefusal.DONE
            holder = self._claims.get(key)
            if holder is not None and holder[0] != token and holder[1] > now:
                return ClaimRefusal.BUSY
            self._hold(key, token, now, lease_seconds)
            return Claimed(key, token)

    def complete(self, claimed: Claimed) -> bool:
        with self._lock:
            if not self._let_go(claimed):
                return False
            now = self._clock.monotonic()
            self._marks[claimed.key] = now + self._retention_seconds
            self._marks.move_to_end(claimed.key)
            self._forget_old_marks(now)
            return True

    def abandon(self, claimed: Claimed) -> bool:
        with self._lock:
            return self._let_go(claimed)

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        with self._lock:
            if not self._let_go(claimed):
                return False
            self._hold(claimed.key, claimed.token, self._clock.monotonic(), lease_seconds)
            return True

    def __len__(self) -> int:
        """Return how many marks are held."""
        return len(self._marks)

    def _hold(self, key: DeduplicationKey, token: str, now: float, lease_seconds: float) -> None:
        self._claims.pop(key, None)  # so that the newest is last
        self._claims[key] = (token, now + lease_seconds)
        self._forget_expired_claims(now)

    def _let_go(self, claimed: Claimed) -> bool:
        # A lease that ran out while nobody else took over still counts: the work was done.
        holder = self._claims.get(claimed.key)
        if holder is None or holder[0] != claimed.token:
            return False
        del self._claims[claimed.key]
        return True

    def _forget_expired_claims(self, now: float) -> None:
        # Claims of crashed listeners, whose messages never came back. Oldest first, stop at the first live one.
        while self._claims:
            key, (_, expires_at) = next(iter(self._claims.items()))
            if expires_at > now:
                return
            del self._claims[key]

    def _forget_old_marks(self, now: float) -> None:
        while self._marks:
            key, expires_at = next(iter(self._marks.items()))
            if expires_at > now and len(self._marks) <= self._max_marks:
                return
            del self._marks[key]
