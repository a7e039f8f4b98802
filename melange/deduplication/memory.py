"""A deduplication store in this process's memory."""

from __future__ import annotations

import math
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
from melange.errors import ConfigurationError, is_number

_Claim = tuple[str, int, float]
"""Token, attempt and end of the lease. A tuple, because one is made for each message and listener."""

_SMALLEST_SWEEP = 1_000
_TOKEN_BITS = 0xFFFF_FFFF
"""A mark is one number of 32 bytes: the second in which it expires, and in the lower bits 32 bits of the token's hash."""


class MemoryDeduplicationStore(DeduplicationStore):
    """Keeps marks and attempts in memory, for the consumers of one process, until the process ends.

    Marks are bounded by time (``retention_seconds``) and by number: beyond ``max_marks`` the oldest are forgotten. A mark
    takes about 120 bytes, so the default limit of half a million takes about 60 MB. Attempts of messages that
    failed and did not come back are bounded in the same way, at about 250 bytes each. Claims are never forgotten before
    their lease expires. Thread-safe; blocks for microseconds.
    """

    answers_at_once = True

    def __init__(
        self,
        *,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        max_marks: int = 500_000,
        clock: Clock | None = None,
    ) -> None:
        if not is_number(retention_seconds) or not 0 < retention_seconds < math.inf:
            raise ConfigurationError(f"retention_seconds must be above 0, not {retention_seconds!r}")
        if isinstance(max_marks, bool) or not isinstance(max_marks, int) or max_marks < 1:
            raise ConfigurationError(f"max_marks must be a whole number of at least 1, not {max_marks!r}")
        self._retention_seconds = retention_seconds
        self._max_marks = max_marks
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._claims: dict[bytes, _Claim] = {}
        self._sweep_claims_at = _SMALLEST_SWEEP
        # By digests of keys: the texts of a key take several times as much memory.
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
                if mark >> 32 > now:
                    return ClaimRefusal.DONE
                self._forget_expired_marks(now)
            attempt = 1
            held = self._claims.get(digest)
            if held is not None:
                holder, attempt, leased_until = held
                if holder != token:
                    if leased_until > now:
                        return ClaimRefusal.BUSY
                    attempt += 1
            elif self._attempts:
                attempt += self._attempts_at(digest, now)
            self._claims[digest] = token, attempt, now + lease_seconds
            if len(self._claims) > self._sweep_claims_at:
                self._forget_expired_claims(now)
            return Claimed(key, token, attempt)

    def complete(self, claimed: Claimed) -> bool:
        key, token, _ = claimed
        digest = key.digest()
        with self._lock:
            claim = self._claims.get(digest)
            if claim is None or claim[0] != token:
                mark = self._marks.get(digest)
                return mark is not None and mark & _TOKEN_BITS == hash(token) & _TOKEN_BITS
            del self._claims[digest]
            if self._attempts:
                self._attempts.pop(digest, None)
            now = self._clock.monotonic()
            marks, by_age = self._marks, self._marks_by_age
            marks[digest] = int(now + self._retention_seconds + 1) << 32 | hash(token) & _TOKEN_BITS
            by_age.append(digest)
            # One mark is added, so at most one is removed for its number, and expired ones are removed as fast as new ones come.
            if len(by_age) > self._max_marks or marks[by_age[0]] >> 32 <= now:
                del marks[by_age.popleft()]
            return True

    def abandon(self, claimed: Claimed, *, began: bool = True) -> bool:
        digest = claimed.key.digest()
        with self._lock:
            claim = self._held(digest, claimed.token)
            if claim is None:
                return False
            del self._claims[digest]
            _, attempt, _ = claim
            self._remember_attempts(digest, attempt if began else attempt - 1)
            return True

    def forget_attempts(self, key: DeduplicationKey) -> None:
        digest = key.digest()
        with self._lock:
            self._attempts.pop(digest, None)
            claim = self._claims.get(digest)
            if claim is not None:
                token, _, leased_until = claim
                self._claims[digest] = token, 1, leased_until

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        digest = claimed.key.digest()
        with self._lock:
            claim = self._held(digest, claimed.token)
            if claim is None:
                return False
            token, attempt, _ = claim
            self._claims[digest] = token, attempt, self._clock.monotonic() + lease_seconds
            return True

    def check(self) -> None:
        """Do nothing: memory is always available."""

    def __len__(self) -> int:
        """Return the number of marks."""
        return len(self._marks)

    def _held(self, digest: bytes, token: str) -> _Claim | None:
        # An expired lease without a successor still counts: the work was done.
        claim = self._claims.get(digest)
        return claim if claim is not None and claim[0] == token else None

    def _forget_expired_claims(self, now: float) -> None:
        """Forget claims of listeners that never finished, except their attempts; each time their number has doubled."""
        for digest, (_, attempt, leased_until) in list(self._claims.items()):
            if leased_until <= now:
                del self._claims[digest]
                self._remember_attempts(digest, attempt)
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
            if len(kept) > self._max_marks:  # an eighth at once, or each new one would need a sweep
                kept = dict(islice(kept.items(), len(kept) - self._max_marks * 7 // 8, None))
            self._attempts = kept
            self._sweep_attempts_at = min(max(_SMALLEST_SWEEP, 2 * len(kept)), self._max_marks)

    def _forget_expired_marks(self, now: float) -> None:
        while self._marks_by_age and self._marks[self._marks_by_age[0]] >> 32 <= now:
            del self._marks[self._marks_by_age.popleft()]
