"""What is so on PostgreSQL alone: several relays share the work, are woken, and lose their connections."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy import URL, NullPool, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from melange.errors import DriverConnectionError, OutboxError
from melange.outbox import InboxMark, Outbox, OutboxAdministration, OutboxMessage, OutboxRelay, metadata
from melange.outbox.locks import PostgresLocks
from outbox_behaviours.databases import Database, named
from outbox_behaviours.drivers import JudgingDriver, out_of_order

KEYS = "abcdefghijkl"


def names_of(count: int) -> list[list[str]]:
    """Return transactions of a few names each, by keys in turn."""
    counts = dict.fromkeys(KEYS, 0)
    transactions = []
    while min(counts.values()) < count:
        names = []
        for key in random.sample(KEYS, 4):
            if counts[key] < count:
                names.append(f"{key}{counts[key]}")
                counts[key] += 1
        transactions.append(names)
    return transactions


class DawdlingDriver(JudgingDriver):
    """Lets go of the interpreter between asking and taking, as a network call does."""

    def publish(self, topic, messages):
        threading.Event().wait(random.random() / 200)
        return super().publish(topic, messages)


class TestSeveralRelays:
    def test_they_share_the_work_and_keep_the_order_of_each_key(
        self, database, start_relay, eventually
    ) -> None:
        driver = DawdlingDriver()
        for _ in range(4):
            start_relay(driver, batch_size=7)

        for names in names_of(40):
            database.write(*names)

        eventually(lambda: set(database.states) == {"sent"})
        assert len(driver.accepted) == len(KEYS) * 40
        assert out_of_order(driver.accepted) == []

    @pytest.mark.parametrize("for_update", ["", "FOR UPDATE SKIP LOCKED"])
    def test_other_locks_would_mix_it_up(
        self, database, start_relay, eventually, monkeypatch, for_update
    ) -> None:
        """The control: what these tests look for would be seen."""
        pending = text(
            f"SELECT id FROM melange_outbox WHERE state = 'pending' ORDER BY id LIMIT 7 {for_update}"
        )

        class WrongLocks(PostgresLocks):
            def choose(self, connection, limit, among):
                ids = list(connection.scalars(pending))
                return OutboxMessage.id.in_(ids) if ids else None

        monkeypatch.setattr("melange.outbox.relay.locks_for", WrongLocks)
        database.write(*(name for names in names_of(40) for name in names))
        driver = DawdlingDriver()

        for _ in range(4):
            start_relay(driver, batch_size=7)

        eventually(lambda: set(database.states) == {"sent"})
        assert out_of_order(driver.accepted) or len(driver.accepted) > len(KEYS) * 40

    def test_processes_that_are_killed_lose_nothing(self, database, start_process, eventually) -> None:
        names = [name for names in names_of(60) for name in names]
        database.write(*names)
        ended, processes = [], [start_process(7) for _ in range(2)]
        for _ in range(2):
            eventually(lambda: processes[0].published or "pending" not in database.states)
            ended.append(processes.pop(0))
            ended[-1].end(signal.SIGKILL)
            processes.append(start_process(7))
            database.write(*names)
        eventually(lambda: set(database.states) == {"sent"})
        codes = [process.end(signal.SIGTERM) for process in processes]

        published = [name for process in ended + processes for name in process.published]
        assert codes == [0, 0]
        assert all(published.count(name) >= 3 for name in names)

    def test_what_commits_late_is_sent_though_higher_ids_have_gone(
        self, database, driver, start_relay, eventually
    ) -> None:
        start_relay()
        with Session(database.engine) as late:
            Outbox(late).publish("orders", named("late"), key="l")
            late.flush()
            database.write("a0", "b0")
            eventually(lambda: driver.accepted == ["a0", "b0"])
            late.commit()

        eventually(lambda: driver.accepted == ["a0", "b0", "late"])

    def test_a_key_in_the_hands_of_another_is_left_alone_and_others_are_not(
        self, database, driver, relay_pending
    ) -> None:
        database.write("a0", "a1", "b0", "-0")
        lock_key = database.column("lock_key")[0]
        with Session(database.engine) as other:
            PostgresLocks(database.engine).wait_for(other.connection(), lock_key)
            sent = relay_pending()

        assert (sent, driver.accepted) == (2, ["b0", "-0"])
        assert relay_pending() == 2

    def test_a_whole_backlog_of_keys_in_other_hands_does_not_hide_what_comes_after(
        self, database, driver, relay_pending
    ) -> None:
        database.write(*(f"a{number}" for number in range(30)), "b0")
        with Session(database.engine) as other:
            PostgresLocks(database.engine).wait_for(other.connection(), database.column("lock_key")[0])
            relay_pending(batch_size=5)

        assert driver.accepted == ["b0"]


class TestWaking:
    @pytest.mark.parametrize("how", ["sync", "psycopg", "asyncpg"])
    def test_a_commit_is_published_at_once_however_seldom_the_relay_looks(
        self, database, driver, start_relay, eventually, how
    ) -> None:
        start_relay(poll_seconds=3_600)
        self._wait_for_listening(database, eventually)

        for number in range(3):
            if how == "sync":
                database.write(f"a{number}")
            else:
                self._write_async(database, f"postgresql+{how}", f"a{number}")
            eventually(lambda number=number: driver.accepted[-1:] == [f"a{number}"])

    def test_what_is_rolled_back_wakes_nobody_and_one_commit_notifies_once(
        self, database, eventually
    ) -> None:
        engine = create_engine(database.engine.url)
        with engine.connect() as connection:
            listening = connection.connection.driver_connection
            listening.autocommit = True
            listening.execute("LISTEN melange_outbox")
            with Session(database.engine) as session:
                Outbox(session).publish("orders", named("a0"))
                session.flush()
                session.rollback()
                outboxes = [Outbox(session), Outbox(session)]
                for _ in range(3):
                    outboxes[0].publish("orders", named("a1"))
                    outboxes[1].publish("orders", named("a2"))
                    session.flush()
                session.commit()
            notified = list(listening.notifies(timeout=1))
        engine.dispose()

        assert len(notified) == 1

    def test_who_does_not_want_to_notify_does_not(self, database) -> None:
        with notifications(database) as statements, Session(database.engine) as session, session.begin():
            Outbox(session, notify=False).publish("orders", named("a0"))

        assert statements == []

    def test_a_session_asks_once_for_each_flush_with_messages(self, database) -> None:
        with notifications(database) as statements, Session(database.engine) as session, session.begin():
            outboxes = [Outbox(session) for _ in range(5)]
            outboxes[0].publish("orders", named("a0"))
            session.flush()
            session.flush()
            outboxes[4].publish("orders", named("a1"))

        assert len(statements) == 2

    def test_a_flush_without_messages_wakes_nobody(self, database) -> None:
        with notifications(database) as statements, Session(database.engine) as session, session.begin():
            Outbox(session)
            columns = [column.name for column in InboxMark.__table__.columns if column.name != "done_at"]
            session.add(InboxMark(**dict.fromkeys(columns, "x"), done_at=datetime.now(UTC)))

        assert statements == []

    def test_what_is_committed_just_before_the_relay_listens_is_seen(
        self, database, driver, start_relay, eventually
    ) -> None:
        outside = apart(database.engine.url)

        @event.listens_for(database.engine, "after_cursor_execute")
        def write(connection, cursor, statement, *_: object) -> None:
            if "melange_outbox" in statement and not outside.states:
                outside.write("a0")

        start_relay(poll_seconds=3_600)

        eventually(lambda: driver.accepted == ["a0"])

    def test_a_relay_that_is_not_notified_any_more_listens_again(
        self, database, driver, start_relay, eventually, caplog
    ) -> None:
        start_relay(poll_seconds=3_600)
        self._wait_for_listening(database, eventually)

        for number in range(3):
            [pid] = self._listeners(database)
            self._terminate(database, pid)
            eventually(lambda pid=pid: self._listeners(database) not in ([pid], []))
            database.write(f"a{number}")
            eventually(lambda number=number: len(driver.accepted) == number + 1)
        assert "not notified of new messages for now" in caplog.text

    def test_without_psycopg_it_looks_from_time_to_time(
        self, database, driver, start_relay, eventually
    ) -> None:
        engine = create_engine(database.engine.url)
        engine.dialect.driver = "another"
        relay = start_relay(engine=engine, poll_seconds=0.05)
        database.write("a0")

        eventually(lambda: driver.accepted == ["a0"])

        assert self._listeners(database) == []
        assert relay.stop(30)
        engine.dispose()

    def test_a_topic_in_trouble_is_tried_again_however_seldom_the_relay_looks(
        self, database, driver, start_relay, eventually
    ) -> None:
        failing = [1, 2]
        driver.judge = lambda topic, name: (
            DriverConnectionError("no answer") if failing and failing.pop() else None
        )
        database.write("a0")

        start_relay(poll_seconds=3_600)

        eventually(lambda: driver.accepted == ["a0"])

    def test_no_connection_is_left_when_the_relay_has_stopped(
        self, database, driver, start_relay, eventually
    ) -> None:
        relay = start_relay(poll_seconds=3_600)
        self._wait_for_listening(database, eventually)

        assert relay.stop(30)
        database.engine.dispose()

        eventually(lambda: self._others(database) == [])

    def test_a_pool_of_one_is_enough(self, database, driver, start_relay, eventually) -> None:
        engine = create_engine(database.engine.url, pool_size=1, max_overflow=0, pool_timeout=5)
        relay = start_relay(engine=engine, poll_seconds=3_600)
        self._wait_for_listening(database, eventually)

        database.write("a0")

        eventually(lambda: driver.accepted == ["a0"])
        assert relay.stop(30)
        engine.dispose()

    def _write_async(self, database: Database, driver: str, name: str) -> None:
        async def main() -> None:
            engine = create_async_engine(database.async_url(driver))
            async with AsyncSession(engine) as session, session.begin():
                Outbox(session).publish("orders", named(name), key=name[0])
            await engine.dispose()

        asyncio.run(main())

    def _wait_for_listening(self, database: Database, eventually) -> None:
        eventually(lambda: self._listeners(database))

    def _listeners(self, database: Database) -> list[int]:
        return self._backends(database, "query LIKE 'LISTEN%'")

    def _others(self, database: Database) -> list[int]:
        return self._backends(database, "pid <> pg_backend_pid() AND backend_type = 'client backend'")

    def _backends(self, database: Database, condition: str) -> list[int]:
        query = f"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
        with Session(database.engine) as session:
            return list(session.scalars(text(query)))

    def _terminate(self, database: Database, pid: int) -> None:
        with Session(database.engine) as session:
            session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})


@contextmanager
def notifications(database: Database) -> Iterator[list[str]]:
    """Collect the statements by which an engine notifies."""
    statements: list[str] = []

    def note(connection, cursor, statement, *_: object) -> None:
        if "NOTIFY" in statement.upper():
            statements.append(statement)

    event.listen(database.engine, "after_cursor_execute", note)
    yield statements
    event.remove(database.engine, "after_cursor_execute", note)


def apart(url: URL | str) -> Database:
    """Return the database with connections of its own, none of which it keeps."""
    return Database(create_engine(url, poolclass=NullPool), [])


class TestLostConnections:
    def test_connections_that_are_terminated_at_any_time_lose_nothing(
        self, database, start_relay, eventually
    ) -> None:
        driver = DawdlingDriver()
        start_relay(driver, batch_size=5)
        start_relay(driver, batch_size=5)
        administration = create_engine(database.engine.url, isolation_level="AUTOCOMMIT")
        terminate = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )

        outside = apart(database.engine.url)

        with administration.connect() as connection:
            for number, names in enumerate(names_of(30)):
                outside.write(*names)
                if number % 15 == 7:
                    connection.execute(terminate)
        administration.dispose()

        eventually(lambda: set(outside.states) == {"sent"})
        assert len(set(driver.accepted)) == len(KEYS) * 30
        assert out_of_order(driver.accepted) == []

    def test_a_relay_that_lost_its_locks_publishes_nothing_more_beside_the_one_that_has_them(
        self, database, driver
    ) -> None:
        """The batch's connection is ended while the fourth message of a key is on its way."""
        database.write(*(f"a{number}" for number in range(10)))
        driver_of_other = JudgingDriver()

        def lose_connection(topic: str, name: str) -> None:
            if name == "a3":
                self._end_idle_transactions(database)
                assert OutboxRelay(database.engine, driver_of_other).relay_pending() == 10

        driver.judge = lose_connection

        with pytest.raises(OutboxError):
            OutboxRelay(database.engine, driver).relay_pending()

        assert driver.accepted == ["a0", "a1", "a2", "a3"]
        assert driver_of_other.accepted == [f"a{number}" for number in range(10)]
        assert database.states == ["sent"] * 10

    def _end_idle_transactions(self, database: Database) -> None:
        query = text(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state = 'idle in transaction' AND pid <> pg_backend_pid()"
        )
        outside = apart(database.engine.url)
        with Session(outside.engine) as session:
            assert session.scalars(query).all() == [True]

    @pytest.mark.parametrize("end", ["kill", "stop"])
    def test_a_restart_of_the_database_is_waited_out(
        self, postgres_server, start_relay, eventually, caplog, end
    ) -> None:
        engine = create_engine(postgres_server.url)
        metadata.create_all(engine)
        outside, driver = apart(postgres_server.url), JudgingDriver()
        relay = start_relay(driver, engine, poll_seconds=3_600)
        outside.write("a0")
        eventually(lambda: relay.health().ready and driver.accepted == ["a0"])

        getattr(postgres_server, end)()
        eventually(lambda: "trying again" in caplog.text)
        ready = relay.health().ready
        postgres_server.start()
        outside.write("a1")

        eventually(lambda: "a1" in driver.accepted)
        assert ready
        assert list(dict.fromkeys(driver.accepted)) == ["a0", "a1"]
        assert relay.stop(30)
        engine.dispose()

    def test_it_stops_at_once_while_the_database_is_unavailable(
        self, postgres_server, start_relay, eventually, caplog
    ) -> None:
        engine = create_engine(postgres_server.url)
        metadata.create_all(engine)
        relay = start_relay(engine=engine, poll_seconds=0.5)
        postgres_server.kill()
        eventually(lambda: caplog.text.count("trying again") >= 3)

        assert relay.stop(10)
        engine.dispose()


class TestElsewhere:
    def test_a_schema_that_the_engine_translates_to_serves_outbox_relay_and_administration(
        self, database, driver
    ) -> None:
        with database.engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA IF NOT EXISTS elsewhere"))
        engine = database.engine.execution_options(schema_translate_map={None: "elsewhere"})
        metadata.create_all(engine)

        Database(engine, []).write("a0", "a1")
        waiting = OutboxAdministration(engine).status()[0].pending
        sent = OutboxRelay(engine, driver).relay_pending()

        assert (waiting, sent, database.states) == (2, 2, [])
        metadata.drop_all(engine)

    def test_the_password_is_not_logged(self, start_relay, eventually, caplog) -> None:
        caplog.set_level(logging.DEBUG, "melange")
        engine = create_engine(
            "postgresql+psycopg://user:S3CRET@127.0.0.1:1/db?password=S3CRET&sslpassword=S3CRET"
        )

        relay = start_relay(engine=engine)
        eventually(lambda: "relaying failed" in caplog.text)
        relay.stop(30)

        assert "relaying the outbox of" in caplog.text
        assert "S3CRET" not in caplog.text


class TestPurging:
    def test_what_another_purge_is_deleting_is_left_to_it_and_all_the_rest_is_deleted(self, database) -> None:
        database.write(*(f"-{number}" for number in range(2_500)))
        with Session(database.engine) as session, session.begin():
            session.execute(
                text("UPDATE melange_outbox SET state = 'sent', done_at = now() - interval '2 days'")
            )

        with Session(database.engine) as other:
            other.execute(
                text(
                    "DELETE FROM melange_outbox WHERE id IN (SELECT id FROM melange_outbox ORDER BY id LIMIT 1000)"
                )
            )
            purged = OutboxAdministration(database.engine).purge(3_600)
            other.commit()

        assert purged == 1_500
        assert database.states == []

    def test_a_relay_that_must_not_delete_goes_on_publishing(
        self, database, driver, start_relay, clock, eventually, caplog
    ) -> None:
        with database.engine.begin() as connection:
            connection.exec_driver_sql(
                "DO $$ BEGIN CREATE ROLE keeper; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
            )
            connection.exec_driver_sql("GRANT SELECT, UPDATE ON melange_outbox TO keeper")
        database.write("a0")
        with Session(database.engine) as session, session.begin():
            session.execute(
                text(
                    "INSERT INTO melange_outbox SELECT 1000, topic, key, lock_key, message_id, event_type_name, body, "
                    "headers, published_at, NULL, NULL, 'sent', 0, NULL, '2020-01-01' FROM melange_outbox"
                )
            )
        engine = create_engine(database.engine.url, connect_args={"options": "-c role=keeper"})
        relay = start_relay(engine=engine)
        eventually(lambda: driver.accepted == ["a0"])

        clock.advance(120)
        eventually(lambda: "old messages cannot be deleted" in caplog.text)
        database.write("a1")

        eventually(lambda: driver.accepted == ["a0", "a1"])
        assert relay.stop(30)
        engine.dispose()
        assert "relaying failed" not in caplog.text
