"""A deduplication store in this process's memory."""

from __future__ import annotations

import threading
from collections import deque

from melange.clock import Clock, SystemClock
from melange.deduplication.base import (
    DEFAULT_RETENTION_SECONDS,
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
)

_SMALLEST_SWEEP = 1_000


class _Entry:
    """A claim, until it is completed; then the same is the mark."""

    __slots__ = ("expires_at", "key", "token")

    def __init__(self, key: DeduplicationKey, token: str, expires_at: float) -> None:
        self.key = key
        self.token = token
        self.expires_at = expires_at


class MemoryDeduplicationStore(DeduplicationStore):
    """Marks kept in memory, for the consumers of one process; gone when it ends.

    Bounded by time (``retention_seconds``) and by size: beyond ``max_marks`` the oldest marks are
    forgotten, at about 400 bytes each. Claims are never forgotten before their lease runs out.
    """

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
        self._claims: dict[DeduplicationKey, _Entry] = {}
        self._attempts: dict[DeduplicationKey, int] = {}
        self._sweep_at = _SMALLEST_SWEEP
        self._marks: dict[DeduplicationKey, _Entry] = {}
        self._marks_by_age: deque[_Entry] = deque()

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        with self._lock:
            now = self._clock.monotonic()
            mark = self._marks.get(key)
            if mark is not None and mark.expires_at > now:
                return ClaimRefusal.DONE
            holder = self._claims.get(key)
            if holder is not None and holder.token != token and holder.expires_at > now:
                return ClaimRefusal.BUSY
            if holder is None or holder.token != token:
                self._attempts[key] = self._attempts.get(key, 0) + 1
            self._claims[key] = _Entry(key, token, now + lease_seconds)
            if len(self._claims) > self._sweep_at:
                self._forget_expired_claims(now)
            return Claimed(key, token, self._attempts[key])

    def complete(self, claimed: Claimed) -> bool:
        with self._lock:
            entry = self._held(claimed)
            if entry is None:
                mark = self._marks.get(claimed.key)
                return mark is not None and mark.token == claimed.token
            del self._claims[entry.key]
            self._attempts.pop(entry.key, None)
            now = self._clock.monotonic()
            entry.expires_at = now + self._retention_seconds
            self._marks[entry.key] = entry
            self._marks_by_age.append(entry)
            self._forget_oldest_mark(now)
            return True

    def abandon(self, claimed: Claimed, *, began: bool = True) -> bool:
        with self._lock:
            entry = self._held(claimed)
            if entry is not None:
                del self._claims[entry.key]
                if not began:
                    self._attempts[entry.key] -= 1
            return entry is not None

    def forget_attempts(self, key: DeduplicationKey) -> None:
        with self._lock:
            self._attempts.pop(key, None)

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        with self._lock:
            entry = self._held(claimed)
            if entry is not None:
                entry.expires_at = self._clock.monotonic() + lease_seconds
            return entry is not None

    def check(self) -> None:
        """Return: memory is always in reach."""

    def __len__(self) -> int:
        """Return how many marks are held."""
        return len(self._marks)

    def _held(self, claimed: Claimed) -> _Entry | None:
        # A lease that ran out while nobody else took over still counts: the work was done.
        holder = self._claims.get(claimed.key)
        return holder if holder is not None and holder.token == claimed.token else None

    def _forget_expired_claims(self, now: float) -> None:
        """Forget claims of crashed listeners whose messages never came back; each time twice as many are there."""
        self._claims = {key: holder for key, holder in self._claims.items() if holder.expires_at > now}
        self._sweep_at = max(_SMALLEST_SWEEP, 2 * len(self._claims))

    def _forget_oldest_mark(self, now: float) -> None:
        # One mark comes, so at most one has to go for its size, and the expired go as fast as new ones come.
        oldest = self._marks_by_age[0]
        if oldest.expires_at <= now or len(self._marks_by_age) > self._max_marks:
            self._marks_by_age.popleft()
            if self._marks[oldest.key] is oldest:  # otherwise its message came again after the retention
                del self._marks[oldest.key]
