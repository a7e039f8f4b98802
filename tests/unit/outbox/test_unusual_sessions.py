"""Sessions that choose their engines by themselves, engines for asyncio, and a database that is locked."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import create_engine, update
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from melange.deduplication import Claimed, DeduplicationKey
from melange.errors import (
    ConfigurationError,
    DriverConnectionError,
    InvalidMessageError,
    MelangeError,
    OutboxError,
)
from melange.outbox import Inbox, Outbox, OutboxAdministration, OutboxMessage, OutboxRelay
from melange.outbox import relay_batch as batch
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

    claimed = inbox.claim(DeduplicationKey("stock", "listener", "1", ("content",)), "token", 30)

    assert isinstance(claimed, Claimed)
    assert inbox.complete(claimed)


@pytest.mark.parametrize("make", [OutboxRelay, OutboxAdministration])
def test_engines_for_asyncio_are_refused_also_from_within(make: Any) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")

    for refused in (engine, engine.sync_engine):
        with pytest.raises(ConfigurationError, match="a synchronous engine"):
            make(refused)


@pytest.mark.parametrize("make", [OutboxRelay, OutboxAdministration])
@pytest.mark.parametrize("user", ["user:p@s3cr3t/word", "user:p@ss/s3cr3t", "us/er:s3cr3t"])
def test_engines_whose_url_may_have_been_cut_within_the_password_are_refused(make: Any, user: str) -> None:
    engine = create_engine(f"postgresql+psycopg://{user}@localhost/shop")

    with pytest.raises(ConfigurationError, match="write %40 for each @") as caught:
        make(engine)

    assert "s3cr3t" not in str(caught.value)


def test_a_relay_that_is_stopped_waits_for_one_slow_topic_not_for_all(
    database, driver, start_relay, monkeypatch
) -> None:
    monkeypatch.setattr(batch, "PUBLISHING_SECONDS", 0.0)
    for topic in ("first", "second", "third"):
        database.write("a0", topic=topic)
    reached, go_on = threading.Event(), threading.Event()

    def give_no_answer(topic: str, name: str) -> MelangeError:
        reached.set()
        assert go_on.wait(30)
        return DriverConnectionError("no answer")

    driver.judge = give_no_answer
    relay = start_relay()
    assert reached.wait(30)

    relay.stop(0)
    go_on.set()

    assert relay.stop(30)
    assert len(driver.calls) == 1


def test_what_was_skipped_while_it_was_refused_stays_skipped(database, driver, relay_pending, caplog) -> None:
    database.write("a0")

    def skip_and_refuse(topic: str, name: str) -> MelangeError:
        with database.engine.begin() as connection:
            connection.execute(update(OutboxMessage).values(state="skipped"))
        return InvalidMessageError("not this one")

    driver.judge = skip_and_refuse

    assert relay_pending() == 0

    assert database.states == ["skipped"]
    assert "stops its key" not in caplog.text


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


def test_a_message_that_got_the_id_of_one_that_could_not_be_marked_is_published(
    database, driver, start_relay, eventually, caplog
) -> None:
    """An older backup is restored under a running relay, and the sequence gives the same id again."""
    engine = create_engine(database.engine.url, connect_args={"timeout": 0.05})
    database.write("a0")
    with closing(
        sqlite3.connect(str(engine.url.database), isolation_level=None, check_same_thread=False)
    ) as writer:

        def lock(topic: str, name: str) -> None:
            if name == "a0":
                writer.execute("BEGIN IMMEDIATE")

        driver.judge = lock
        relay = start_relay(engine=engine)
        eventually(lambda: "relaying failed, trying again" in caplog.text)

        writer.execute(
            "UPDATE melange_outbox SET message_id = 'another', body = replace(body, 'a0', 'b0'), state = 'pending'"
        )
        writer.execute("COMMIT")

        eventually(lambda: database.states == ["sent"])
        assert relay.stop(30)
    assert driver.accepted == ["a0", "b0"]
    engine.dispose()


def test_while_the_database_is_locked_nothing_is_published_a_second_time(
    database, driver, start_relay, eventually, caplog
) -> None:
    engine = create_engine(database.engine.url, connect_args={"timeout": 0.05})
    database.write("a0", "a1", "b0")

    with closing(sqlite3.connect(str(engine.url.database), isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        relay = start_relay(engine=engine)
        eventually(lambda: caplog.text.count("relaying failed, trying again") >= 3)
        writer.execute("ROLLBACK")
    eventually(lambda: database.states == ["sent"] * 3)

    assert relay.stop(30)
    assert sorted(driver.accepted) == ["a0", "a1", "b0"]
    engine.dispose()
