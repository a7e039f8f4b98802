"""What an application has set up on PostgreSQL does not get in the way of outbox and relay."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from melange.clock import SystemClock
from melange.outbox import Outbox, OutboxRelay
from melange.outbox.relay_loop import NotifiedWaker, StopSignal
from outbox_behaviours.databases import Database, named


@pytest.fixture
def make_engine(database: Database) -> Iterator[Any]:
    engines: list[Engine] = []

    def make(**arguments: Any) -> Engine:
        engines.append(create_engine(database.engine.url, **arguments))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


def dawdle() -> None:
    threading.Event().wait(2)


def test_a_batch_outlasts_the_time_that_transactions_may_be_idle(database, driver, make_engine) -> None:
    impatient = make_engine(connect_args={"options": "-c idle_in_transaction_session_timeout=1000"})
    database.write("a0")
    driver.judge = lambda topic, name: dawdle()

    count = OutboxRelay(impatient, driver).relay_pending()

    assert count == 1
    assert driver.accepted == ["a0"]
    with impatient.connect() as connection:  # as it was, outside of the batch
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar() == "1s"


def test_new_connections_may_have_begun_a_transaction_when_the_relay_listens(
    database, make_engine, caplog
) -> None:
    engine = make_engine()
    connections = []

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        connection.execute("SET application_name = 'shop'")
        connections.append(connection)

    with closing(NotifiedWaker(engine, SystemClock())) as waker:
        waker.wait(StopSignal(), 0)
        database.write("a0")
        waker.wait(StopSignal(), 30)

    assert not caplog.messages
    assert [connection.closed for connection in connections] == [True]


def test_a_connection_that_cannot_listen_is_closed(make_engine, caplog) -> None:
    engine = make_engine()
    connections = []

    @event.listens_for(engine, "connect")
    def break_it(connection: Any, _record: object) -> None:
        connections.append(connection)
        connection.read_only = True
        connection.execute = lambda statement: 1 / 0

    with closing(NotifiedWaker(engine, SystemClock())) as waker:
        waker.wait(StopSignal(), 0)

    assert "not notified of new messages for now" in caplog.text
    assert [connection.closed for connection in connections] == [True]


def test_a_session_with_two_phases_notifies_nobody_since_it_could_not_be_prepared(database) -> None:
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    with Session(database.engine, twophase=True) as session:
        Outbox(session).publish("orders", named("a0"))
        session.flush()

    assert any("INSERT INTO melange_outbox" in statement for statement in statements)
    assert not any("NOTIFY" in statement for statement in statements)
