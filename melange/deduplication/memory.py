"""A deduplication store in this process's memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import ClassVar, NamedTuple

from melange.clock import Clock, SystemClock
from melange.deduplication.base import (
    DEFAULT_RETENTION_SECONDS,
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
)

_SMALLEST_SWEEP = 1_000


class _Claim(NamedTuple):
    token: str
    expires_at: float
    digest: int


class _Mark(NamedTuple):
    token: str
    expires_at: float
    digest: int


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
        self._claims: dict[DeduplicationKey, _Claim] = {}
        self._sweep_at = _SMALLEST_SWEEP
        # Oldest first: a plain dict would be slow to take the oldest from, over and over.
        self._marks: OrderedDict[DeduplicationKey, _Mark] = OrderedDict()

    @classmethod
    def shared(cls) -> MemoryDeduplicationStore:
        """Return the store that all consumers of this process use by default."""
        with cls._shared_lock:
            if cls._shared is None:
                cls._shared = cls()
            return cls._shared

    def claim(
        self, key: DeduplicationKey, token: str, lease_seconds: float, *, body: str
    ) -> Claimed | ClaimRefusal:
        with self._lock:
            now = self._clock.monotonic()
            mark = self._marks.get(key)
            if mark is not None:
                if mark.expires_at > now:
                    return ClaimRefusal.DONE if mark.digest == hash(body) else ClaimRefusal.CONFLICT
                del self._marks[key]
            holder = self._claims.get(key)
            if holder is not None and holder.token != token and holder.expires_at > now:
                return ClaimRefusal.BUSY
            self._claims[key] = _Claim(token, now + lease_seconds, hash(body))
            if len(self._claims) > self._sweep_at:
                self._forget_expired_claims(now)
            return Claimed(key, token)

    def complete(self, claimed: Claimed) -> bool:
        with self._lock:
            if not self._holds(claimed):
                mark = self._marks.get(claimed.key)
                return mark is not None and mark.token == claimed.token
            claim = self._claims.pop(claimed.key)
            now = self._clock.monotonic()
            self._marks[claimed.key] = _Mark(claim.token, now + self._retention_seconds, claim.digest)
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
            expires_at = self._clock.monotonic() + lease_seconds
            self._claims[claimed.key] = self._claims[claimed.key]._replace(expires_at=expires_at)
            return True

    def check(self) -> None:
        """Return: memory is always in reach."""

    def __len__(self) -> int:
        """Return how many marks are held."""
        return len(self._marks)

    def _holds(self, claimed: Claimed) -> bool:
        # A lease that ran out while nobody else took over still counts: the work was done.
        holder = self._claims.get(claimed.key)
        return holder is not None and holder.token == claimed.token

    def _forget_expired_claims(self, now: float) -> None:
        """Forget claims of crashed listeners whose messages never came back; each time twice as many are there."""
        self._claims = {key: holder for key, holder in self._claims.items() if holder.expires_at > now}
        self._sweep_at = max(_SMALLEST_SWEEP, 2 * len(self._claims))

    def _forget_oldest_mark(self, now: float) -> None:
        # One mark comes, so at most one has to go for its size, and the expired go as fast as new ones come.
        oldest = next(iter(self._marks))
        if self._marks[oldest].expires_at <= now or len(self._marks) > self._max_marks:
            del self._marks[oldest]
