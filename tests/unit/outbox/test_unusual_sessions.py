"""Sessions that choose their engines by themselves, and a database that is locked."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from melange.deduplication import Claimed, DeduplicationKey
from melange.errors import OutboxError
from melange.outbox import Inbox, Outbox, OutboxRelay
from outbox_behaviours.databases import Database, named


class Elsewhere(DeclarativeBase):
    """What is in another database."""


@pytest.fixture
def routing_session(database: Database) -> type[Session]:
    """Return a session that looks at mappers, as SQLAlchemy's documentation shows it."""

    class RoutingSession(Session):
        def get_bind(self, mapper: Any = None, *, clause: Any = None, **arguments: Any) -> Any:
            if mapper is not None and issubclass(mapper.class_, Elsewhere):
                raise AssertionError
            return database.engine

    return RoutingSession


def test_an_outbox_works_with_a_session_that_chooses_its_engine_by_the_mapper(
    database: Database, routing_session: type[Session]
) -> None:
    with routing_session() as session, session.begin():
        Outbox(session).publish("orders", named("a0"))

    assert database.states == ["pending"]


def test_an_inbox_works_with_a_session_that_chooses_its_engine_by_the_mapper(
    routing_session: type[Session],
) -> None:
    inbox = Inbox(sessionmaker(class_=routing_session))

    claimed = inbox.claim(DeduplicationKey("stock", "listener", "1"), "token", 30, body="{}")

    assert isinstance(claimed, Claimed)
    assert inbox.complete(claimed)


def test_a_mark_that_cannot_be_committed_leaves_the_database_unlocked(database, driver) -> None:
    """A reader keeps SQLite from committing, and it goes on with the transaction until it is told to roll back."""
    engine = create_engine(database.engine.url, connect_args={"timeout": 0.05})
    database.write("a0")

    with closing(sqlite3.connect(str(engine.url.database), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM melange_outbox").fetchall()
        with pytest.raises(OutboxError, match="locked"):
            OutboxRelay(engine, driver).relay_pending()
        reader.execute("COMMIT")

    database.write("a1")
    assert database.states == ["pending", "pending"]
    assert OutboxRelay(engine, driver).relay_pending() == 2
    engine.dispose()
