"""A deduplication store in this process's memory."""

from __future__ import annotations

import threading
from collections import deque
from itertools import islice

from melange.clock import Clock, SystemClock
from melange.deduplication.base import (
    DEFAULT_RETENTION_SECONDS,
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
)

_SMALLEST_SWEEP = 1_000


class _Claim:
    __slots__ = ("attempt", "digest", "leased_until", "token")

    def __init__(self, digest: bytes, token: str, attempt: int, leased_until: float) -> None:
        self.digest = digest
        self.token = token
        self.attempt = attempt
        self.leased_until = leased_until


class MemoryDeduplicationStore(DeduplicationStore):
    """Keep marks and attempts in memory, for the consumers of one process; they are gone when it ends.

    Marks are bounded by time (``retention_seconds``) and by number: beyond ``max_marks`` the oldest are forgotten. A mark
    takes about 150 bytes, so that the default bound of half a million comes to about 75 MB. Attempts of messages that
    failed and did not come back are bounded in the same way, at about 250 bytes each. Claims are never forgotten before
    their lease expires. Thread-safe; blocks for microseconds.
    """

    def __init__(
        self,
        *,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        max_marks: int = 500_000,
        clock: Clock | None = None,
    ) -> None:
        self._retention_seconds = retention_seconds
        self._max_marks = max_marks
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._claims: dict[DeduplicationKey, _Claim] = {}
        self._sweep_claims_at = _SMALLEST_SWEEP
        # By digests of keys, for the texts of a key take several times as much.
        self._attempts: dict[bytes, tuple[int, float]] = {}
        self._sweep_attempts_at = _SMALLEST_SWEEP
        self._marks: dict[bytes, int] = {}
        self._marks_by_age: deque[bytes] = deque()

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        digest = key.digest()
        with self._lock:
            now = self._clock.monotonic()
            mark = self._marks.get(digest)
            if mark is not None:
                if _expires_at(mark) > now:
                    return ClaimRefusal.DONE
                self._forget_expired_marks(now)
            holder = self._claims.get(key)
            if holder is not None and holder.token == token:
                holder.leased_until = now + lease_seconds
                return Claimed(key, token, holder.attempt)
            if holder is not None and holder.leased_until > now:
                return ClaimRefusal.BUSY
            attempt = 1 + (self._attempts_at(digest, now) if holder is None else holder.attempt)
            self._claims[key] = _Claim(digest, token, attempt, now + lease_seconds)
            if len(self._claims) > self._sweep_claims_at:
                self._forget_expired_claims(now)
            return Claimed(key, token, attempt)

    def complete(self, claimed: Claimed) -> bool:
        key = claimed.key
        with self._lock:
            claim = self._held(claimed)
            if claim is None:
                mark = self._marks.get(key.digest())
                return mark is not None and _is_of(mark, claimed.token)
            del self._claims[key]
            digest = claim.digest
            if self._attempts:
                self._attempts.pop(digest, None)
            now = self._clock.monotonic()
            self._marks[digest] = _mark(claim.token, now + self._retention_seconds)
            self._marks_by_age.append(digest)
            # One mark comes, so at most one has to go for its number, and the expired go as fast as new ones come.
            oldest = self._marks_by_age[0]
            if len(self._marks_by_age) > self._max_marks or _expires_at(self._marks[oldest]) <= now:
                del self._marks[self._marks_by_age.popleft()]
            return True

    def abandon(self, claimed: Claimed, *, began: bool = True) -> bool:
        with self._lock:
            claim = self._held(claimed)
            if claim is None:
                return False
            del self._claims[claimed.key]
            self._remember_attempts(claim.digest, claim.attempt if began else claim.attempt - 1)
            return True

    def forget_attempts(self, key: DeduplicationKey) -> None:
        with self._lock:
            self._attempts.pop(key.digest(), None)
            claim = self._claims.get(key)
            if claim is not None:
                claim.attempt = 1

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        with self._lock:
            claim = self._held(claimed)
            if claim is None:
                return False
            claim.leased_until = self._clock.monotonic() + lease_seconds
            return True

    def check(self) -> None:
        """Return: memory is always available."""

    def __len__(self) -> int:
        """Return the number of marks."""
        return len(self._marks)

    def _held(self, claimed: Claimed) -> _Claim | None:
        # A lease that expired while nobody else took over still counts: the work was done.
        holder = self._claims.get(claimed.key)
        return holder if holder is not None and holder.token == claimed.token else None

    def _forget_expired_claims(self, now: float) -> None:
        """Forget claims of listeners that never finished, but for their attempts; each time twice as many are there."""
        for key, claim in list(self._claims.items()):
            if claim.leased_until <= now:
                del self._claims[key]
                self._remember_attempts(claim.digest, claim.attempt)
        self._sweep_claims_at = max(_SMALLEST_SWEEP, 2 * len(self._claims))

    def _attempts_at(self, digest: bytes, now: float) -> int:
        attempts, expires_at = self._attempts.get(digest, (0, 0.0))
        return attempts if expires_at > now else 0

    def _remember_attempts(self, digest: bytes, attempts: int) -> None:
        now = self._clock.monotonic()
        self._attempts.pop(digest, None)  # so that the oldest come first
        if attempts > 0:
            self._attempts[digest] = (attempts, now + self._retention_seconds)
        if len(self._attempts) > self._sweep_attempts_at:
            kept = {key: entry for key, entry in self._attempts.items() if entry[1] > now}
            if len(kept) > self._max_marks:  # an eighth at once, or each that is added would cost a sweep
                kept = dict(islice(kept.items(), len(kept) - self._max_marks * 7 // 8, None))
            self._attempts = kept
            self._sweep_attempts_at = min(max(_SMALLEST_SWEEP, 2 * len(kept)), self._max_marks)

    def _forget_expired_marks(self, now: float) -> None:
        while self._marks_by_age and _expires_at(self._marks[self._marks_by_age[0]]) <= now:
            del self._marks[self._marks_by_age.popleft()]


# A mark is one number, which takes 32 bytes: the second in which it expires, and below it 32 bits of the token's hash.
def _mark(token: str, expires_at: float) -> int:
    return int(expires_at + 1) << 32 | hash(token) & 0xFFFF_FFFF


def _expires_at(mark: int) -> int:
    return mark >> 32


def _is_of(mark: int, token: str) -> bool:
    return mark & 0xFFFF_FFFF == hash(token) & 0xFFFF_FFFF
