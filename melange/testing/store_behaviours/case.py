"""The base of the parts of the suite: a store, a key, and time that passes."""

from __future__ import annotations

import threading
import uuid
from abc import ABC, abstractmethod
from typing import ClassVar

import pytest

from melange.deduplication import Claimed, DeduplicationKey, DeduplicationStore


class StoreCase(ABC):
    """A store under test, and an unused key."""

    short_lease_seconds: ClassVar[float] = 1.0

    @abstractmethod
    def make_store(self) -> DeduplicationStore:
        """Return a store; called once per test."""

    def pass_time(self, seconds: float) -> None:
        """Let time pass; a store with a clock of its own advances that instead."""
        threading.Event().wait(seconds)

    def pass_short_lease(self) -> None:
        """Let a short lease run out."""
        self.pass_time(1.1 * self.short_lease_seconds)

    @pytest.fixture
    def store(self) -> DeduplicationStore:
        return self.make_store()

    @pytest.fixture
    def key(self) -> DeduplicationKey:
        return DeduplicationKey("orders", "StockListener", str(uuid.uuid4()), "content")


def claim_of(
    store: DeduplicationStore, key: DeduplicationKey, token: str, lease_seconds: float = 30
) -> Claimed:
    """Claim a key that is free."""
    claimed = store.claim(key, token, lease_seconds)
    assert isinstance(claimed, Claimed)
    return claimed
