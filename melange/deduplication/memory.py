"""A deduplication store in this process's memory."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

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

_Identity = int | bytes
"""Stands for a key: its hash, or its digest. The texts of a key take several times as much memory."""

HASHES_ARE_SECRET = (
    sys.hash_info.width >= 64
    and sys.hash_info.algorithm.startswith("siphash")
    and os.environ.get("PYTHONHASHSEED", "random") in ("", "random")
)
"""True if no sender can find two texts with the same hash: the interpreter made up a secret for its hashes at its start."""

identity_of: Callable[[DeduplicationKey], _Identity] = hash if HASHES_ARE_SECRET else DeduplicationKey.digest

_SMALLEST_SWEEP = 1_000
_PERIODS = 100
"""Marks of one period expire together, a hundredth of the retention late at most: so no mark has to hold its own time."""


class MemoryDeduplicationStore(DeduplicationStore):
    """Keeps marks and attempts in memory, for the consumers of one process, until the process ends.

    Marks are bounded by time (``retention_seconds``) and by number: beyond ``max_marks`` the oldest are forgotten. A mark
    takes about 120 bytes, so the default limit of half a million takes about 60 MB. Marks stand for keys by their
    hashes, or by their digests where the secret of the hashes may be known: if ``PYTHONHASHSEED`` is set. Attempts of
    messages that failed and did not come back are bounded in the same way, at about 250 bytes each. Claims are never
    forgotten before their lease expires. Thread-safe; blocks for microseconds.
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
        self._claims: dict[_Identity, _Claim] = {}
        self._sweep_claims_at = _SMALLEST_SWEEP
        self._attempts: dict[_Identity, tuple[int, float]] = {}
        self._sweep_attempts_at = _SMALLEST_SWEEP
        self._marks: dict[_Identity, int] = {}
        """The hashes of the tokens that completed."""
        self._marks_by_age: deque[Any] = deque()
        """Identities, the oldest first; before the first of each period stands a float, the time when its marks expire."""
        self._period_ends_at = self._oldest_expire_at = -math.inf

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        identity = identity_of(key)
        with self._lock:
            now = self._clock.monotonic()
            if identity in self._marks:
                self._forget_expired_marks(now)
                if identity in self._marks:
                    return ClaimRefusal.DONE
            attempt = 1
            held = self._claims.get(identity)
            if held is not None:
                holder, attempt, leased_until = held
                if holder != token:
                    if leased_until > now:
                        return ClaimRefusal.BUSY
                    attempt += 1
            elif self._attempts:
                attempt += self._attempts_at(identity, now)
            self._claims[identity] = token, attempt, now + lease_seconds
            if len(self._claims) > self._sweep_claims_at:
                self._forget_expired_claims(now)
            return tuple.__new__(Claimed, (key, token, attempt))  # in half of the time of Claimed(...)

    def complete(self, claimed: Claimed) -> bool:
        key, token, _ = claimed
        identity = identity_of(key)
        with self._lock:
            claim = self._claims.get(identity)
            if claim is None or claim[0] != token:
                return self._marks.get(identity) == hash(token)
            now = self._clock.monotonic()
            if now >= self._period_ends_at:
                self._begin_period(now)
            self._marks_by_age.append(identity)
            self._marks[identity] = hash(token)
            del self._claims[identity]
            if self._attempts:
                self._attempts.pop(identity, None)
            # One mark is added, so at most one is removed for its number. Expired ones are removed as fast as new ones come.
            if now >= self._oldest_expire_at or len(self._marks) > self._max_marks:
                self._forget_oldest_mark(now)
            return True

    def abandon(self, claimed: Claimed, *, began: bool = True) -> bool:
        identity = identity_of(claimed.key)
        with self._lock:
            claim = self._held(identity, claimed.token)
            if claim is None:
                return False
            del self._claims[identity]
            _, attempt, _ = claim
            self._remember_attempts(identity, attempt if began else attempt - 1)
            return True

    def forget_attempts(self, key: DeduplicationKey) -> None:
        identity = identity_of(key)
        with self._lock:
            self._attempts.pop(identity, None)
            claim = self._claims.get(identity)
            if claim is not None:
                token, _, leased_until = claim
                self._claims[identity] = token, 1, leased_until

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        identity = identity_of(claimed.key)
        with self._lock:
            claim = self._held(identity, claimed.token)
            if claim is None:
                return False
            token, attempt, _ = claim
            self._claims[identity] = token, attempt, self._clock.monotonic() + lease_seconds
            return True

    def check(self) -> None:
        """Do nothing: memory is always available."""

    def __len__(self) -> int:
        """Return the number of marks."""
        return len(self._marks)

    def _held(self, identity: _Identity, token: str) -> _Claim | None:
        # An expired lease without a successor still counts: the work was done.
        claim = self._claims.get(identity)
        return claim if claim is not None and claim[0] == token else None

    def _forget_expired_claims(self, now: float) -> None:
        """Forget claims of listeners that never finished, except their attempts; each time their number has doubled."""
        for identity, (_, attempt, leased_until) in list(self._claims.items()):
            if leased_until <= now:
                del self._claims[identity]
                self._remember_attempts(identity, attempt)
        self._sweep_claims_at = max(_SMALLEST_SWEEP, 2 * len(self._claims))

    def _attempts_at(self, identity: _Identity, now: float) -> int:
        attempts, expires_at = self._attempts.get(identity, (0, 0.0))
        return attempts if expires_at > now else 0

    def _remember_attempts(self, identity: _Identity, attempts: int) -> None:
        now = self._clock.monotonic()
        self._attempts.pop(identity, None)  # so that the oldest come first
        if attempts > 0:
            self._attempts[identity] = (attempts, now + self._retention_seconds)
        if len(self._attempts) > self._sweep_attempts_at:
            kept = {key: entry for key, entry in self._attempts.items() if entry[1] > now}
            if len(kept) > self._max_marks:  # an eighth at once, or each new one would need a sweep
                kept = dict(islice(kept.items(), len(kept) - self._max_marks * 7 // 8, None))
            self._attempts = kept
            self._sweep_attempts_at = min(max(_SMALLEST_SWEEP, 2 * len(kept)), self._max_marks)

    def _begin_period(self, now: float) -> None:
        self._period_ends_at = now + self._retention_seconds / _PERIODS
        self._marks_by_age.append(self._period_ends_at + self._retention_seconds)

    def _forget_oldest_mark(self, now: float) -> bool:
        """Forget the oldest mark if it has expired, or if there are too many; return False if it stays."""
        by_age = self._marks_by_age
        while isinstance(by_age[0], float):
            self._oldest_expire_at = by_age.popleft()
        is_over = now >= self._oldest_expire_at or len(self._marks) > self._max_marks
        if is_over:
            self._marks.pop(by_age.popleft(), None)
        return is_over

    def _forget_expired_marks(self, now: float) -> None:
        while self._marks_by_age and self._forget_oldest_mark(now):
            pass
