"""What is so on SQLite alone: one relay works, the others stand by."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from filelock import FileLock
from sqlalchemy import StaticPool, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from melange.drivers.memory import InMemoryDriver
from melange.errors import ConfigurationError, OutboxError
from melange.outbox import Outbox, OutboxAdministration, OutboxRelay, metadata
from melange.outbox.locks import locks_for
from outbox_behaviours.databases import named


def test_when_one_stops_another_of_the_process_goes_on(database, driver, start_relay, eventually) -> None:
    first = start_relay()
    database.write("a0")
    eventually(lambda: driver.accepted == ["a0"])
    start_relay()

    first.stop(30)
    database.write("a1")

    eventually(lambda: driver.accepted == ["a0", "a1"])


def test_relay_pending_keeps_off_while_a_relay_is_at_work(
    database, driver, start_relay, relay_pending, eventually
) -> None:
    database.write("a0")
    reached, go_on = threading.Event(), threading.Event()

    def wait(topic, name):
        reached.set()
        assert go_on.wait(30)

    driver.judge = wait
    relay = start_relay()
    assert reached.wait(30)

    for pending in (relay_pending, relay.relay_pending):
        with pytest.raises(OutboxError, match="another relay works on this SQLite database"):
            pending()

    go_on.set()
    eventually(lambda: database.states == ["sent"])
    assert driver.accepted == ["a0"]
    relay.stop(30)
    database.write("a1")
    assert relay_pending() == 1


def test_of_two_threads_that_ask_at_once_one_gets_the_database(database, monkeypatch) -> None:
    asking = threading.Barrier(1)

    class SlowLock(FileLock):
        def acquire(self, *arguments, **options):
            with suppress(threading.BrokenBarrierError):  # the other thread may not come here
                asking.wait()
            return super().acquire(*arguments, **options)

    monkeypatch.setattr("melange.outbox.locks.FileLock", SlowLock)
    locks = locks_for(database.engine)
    assert locks.acquire()
    locks.release()
    asking = threading.Barrier(2, timeout=0.5)

    with ThreadPoolExecutor(2) as threads:
        granted = list(threads.map(lambda _: locks.acquire(), range(2)))

    assert sorted(granted) == [False, True]


def test_a_lock_that_cannot_be_had_is_told_and_waited_for(
    database, driver, start_relay, relay_pending, eventually, caplog, tmp_path
) -> None:
    database.write("a0")
    lock = tmp_path / "shop.db-relay.lock"
    lock.mkdir()

    with pytest.raises(OutboxError, match=r"shop\.db-relay\.lock"):
        relay_pending()
    start_relay()
    eventually(lambda: "shop.db-relay.lock" in caplog.text)
    lock.rmdir()

    eventually(lambda: driver.accepted == ["a0"])


def test_an_outbox_in_memory_is_relayed_too(driver) -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        Outbox(session).publish("orders", named("a0"), key="a")

    sent = OutboxRelay(engine, driver).relay_pending()
    engine.dispose()

    assert (sent, driver.accepted) == (1, ["a0"])


def test_a_writer_is_not_held_up_while_messages_are_published(
    database, driver, start_relay, eventually
) -> None:
    database.write("a0")
    reached, go_on = threading.Event(), threading.Event()

    def wait(topic, name):
        reached.set()
        assert go_on.wait(30)

    driver.judge = wait
    start_relay()
    assert reached.wait(30)

    database.write("a1")
    go_on.set()

    eventually(lambda: driver.accepted == ["a0", "a1"])


def test_a_database_that_is_locked_is_waited_for(database, driver, start_relay, eventually, caplog) -> None:
    engine = create_engine(database.engine.url, connect_args={"timeout": 0})
    database.write("a0")

    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA locking_mode = EXCLUSIVE")
        connection.exec_driver_sql("UPDATE melange_outbox SET attempts = 0")
        relay = start_relay(engine=engine, poll_seconds=0.5)
        eventually(lambda: "database is locked" in caplog.text)
        connection.rollback()
        connection.exec_driver_sql("PRAGMA locking_mode = NORMAL")
        connection.exec_driver_sql("SELECT * FROM melange_outbox")

    eventually(lambda: driver.accepted[-1:] == ["a0"])
    assert relay.stop(30)
    engine.dispose()


def test_other_databases_and_engines_are_refused(database) -> None:
    asynchronous = create_async_engine(database.async_url("sqlite+aiosqlite"))
    mysql = create_engine("mysql+pymysql://", module=FakeModule())

    with pytest.raises(ConfigurationError, match="a synchronous engine"):
        OutboxRelay(asynchronous, InMemoryDriver())
    for make in (OutboxRelay, OutboxAdministration):
        with pytest.raises(ConfigurationError, match="PostgreSQL and SQLite, not mysql"):
            make(mysql)


class FakeModule:
    """Stands in for a database's driver that is not installed."""

    paramstyle = "format"
