"""The inbox keeps the contract of stores whose claim is a transaction, on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from melange.deduplication import Claimed, DeduplicationKey, DeduplicationStore, MemoryDeduplicationStore
from melange.outbox import Inbox, metadata
from melange.testing.clock import ManualClock
from melange.testing.deduplication_contract import TransactionalStoreContract


class TestInboxOnSqlite(TransactionalStoreContract):
    short_lease_seconds = 0.01

    @pytest.fixture(autouse=True)
    def _engine(self, tmp_path: Path) -> Iterator[None]:
        self.engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
        metadata.create_all(self.engine)
        self.sessions: list[Session] = []
        yield
        for session in self.sessions:  # the suite leaves claims behind
            session.close()
        self.engine.dispose()

    def make_store(self) -> DeduplicationStore:
        return Inbox(self.make_session)

    def make_session(self) -> Session:
        self.sessions.append(Session(self.engine))
        return self.sessions[-1]


class TestNegativeControls:
    """Stores that break the promise, which the suite must catch."""

    class EndsWithItsLease(MemoryDeduplicationStore):
        """Another may take over while the first can still commit."""

    class CompletesWhatWasGivenBack(MemoryDeduplicationStore):
        """Marks what was rolled back."""

        def complete(self, claimed: Claimed) -> bool:
            self.claim(claimed.key, claimed.token, 30)
            return super().complete(claimed)

    @pytest.mark.parametrize(
        ("broken_store", "test_name"),
        [
            (EndsWithItsLease, "test_a_claim_outlasts_its_lease"),
            (CompletesWhatWasGivenBack, "test_an_abandoned_claim_cannot_be_completed"),
        ],
    )
    def test_the_contract_catches_a_broken_store(
        self, broken_store: type[MemoryDeduplicationStore], test_name: str
    ) -> None:
        suite, clock = TestInboxOnSqlite(), ManualClock()
        suite.pass_time = clock.advance

        with pytest.raises(AssertionError):
            getattr(suite, test_name)(
                broken_store(clock=clock), DeduplicationKey("queue", "listener", "message", ("content",))
            )
