"""A deduplication store that can be made unavailable, and loses answers then."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from chaos.inside.fast_clock import FastClock
from melange.deduplication import Claimed, ClaimRefusal, DeduplicationKey, MemoryDeduplicationStore
from melange.errors import DeduplicationError

ResultT = TypeVar("ResultT")

LOST_ANSWERS = 0.5
"""The share of the calls during an outage that take effect all the same."""


class DisturbedStore(MemoryDeduplicationStore):
    """Fails while ``is_down``; half of the calls that fail have taken effect. Stands for a server of its own."""

    outlives_process = True

    def __init__(self, clock: FastClock, seed: str) -> None:
        super().__init__(clock=clock)
        self.is_down = threading.Event()
        self.busy_claims = 0
        self._random = random.Random(seed)

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        answer = self._disturbed(lambda: super(DisturbedStore, self).claim(key, token, lease_seconds))
        self.busy_claims += answer is ClaimRefusal.BUSY
        return answer

    def complete(self, claimed: Claimed) -> bool:
        return self._disturbed(lambda: super(DisturbedStore, self).complete(claimed))

    def abandon(self, claimed: Claimed, *, began: bool = True) -> bool:
        return self._disturbed(lambda: super(DisturbedStore, self).abandon(claimed, began=began))

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        return self._disturbed(lambda: super(DisturbedStore, self).renew(claimed, lease_seconds))

    def forget_attempts(self, key: DeduplicationKey) -> None:
        self._disturbed(lambda: super(DisturbedStore, self).forget_attempts(key))

    def check(self) -> None:
        self._disturbed(super().check)

    def _disturbed(self, call: Callable[[], ResultT]) -> ResultT:
        if not self.is_down.is_set():
            return call()
        if self._random.random() < LOST_ANSWERS:
            call()
        raise DeduplicationError("the store is down for this run")


class CountingReceives(DisturbedStore):
    """Negative control: takes the receives of a message for its attempts."""

    def __init__(self, clock: FastClock, seed: str, receives: Mapping[str, int]) -> None:
        super().__init__(clock, seed)
        self._receives = receives

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        answer = super().claim(key, token, lease_seconds)
        if isinstance(answer, ClaimRefusal):
            return answer
        # A head that is retried in flight is not received again: its runs count, or it would be retried without end.
        return answer._replace(attempt=max(answer.attempt, self._receives[key.message_id]))
