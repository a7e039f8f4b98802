"""The inbox keeps the contract of stores whose claim is a transaction, on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from melange.deduplication import DeduplicationStore
from melange.outbox import Inbox, metadata
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
