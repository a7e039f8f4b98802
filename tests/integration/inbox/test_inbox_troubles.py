"""Connections that break, processes that are killed, databases that are away: effects stay exactly once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker

from melange import DeduplicationError
from melange.deduplication import Claimed, ClaimRefusal
from melange.outbox import Inbox, metadata
from melange.testing.deduplication_contract import TransactionalStoreContract
from waiting import eventually

EVENT = {"event_type_name": "ProductAdded"}


class TestInboxOnPostgres(TransactionalStoreContract):
    short_lease_seconds = 0.01

    @pytest.fixture(autouse=True)
    def _database(self, postgres_database):
        self.make_session = postgres_database.sessions
        self.sessions = []
        yield
        for session in self.sessions:  # the suite leaves claims behind
            session.close()

    def make_store(self):
        return Inbox(self.remembered_session)

    def remembered_session(self):
        self.sessions.append(self.make_session())
        return self.sessions[-1]


# --- PostgreSQL's own --------------------------------------------------------------------------------


def test_on_postgres_a_claim_of_another_process_is_busy_at_once(postgres_database, key):
    first, second = Inbox(postgres_database.sessions), Inbox(postgres_database.sessions)
    claimed = first.claim(key, "first", 30)

    assert second.claim(key, "second", 30) is ClaimRefusal.BUSY
    assert first.abandon(claimed)

    assert isinstance(taken := second.claim(key, "second", 30), Claimed)
    assert first.claim(key, "third", 30) is ClaimRefusal.BUSY
    assert second.complete(taken)
    assert first.claim(key, "third", 30) is ClaimRefusal.DONE


def test_on_postgres_a_claim_ends_with_the_connection_of_a_process_that_died(postgres_database, key):
    first, second = Inbox(postgres_database.sessions), Inbox(postgres_database.sessions)
    claimed = first.claim(key, "first", 0.1)

    break_connection(claimed, postgres_database)

    eventually(lambda: isinstance(second.claim(key, "second", 30), Claimed))
    assert first.abandon(claimed)
    assert second.abandon(Claimed(key, "second"))


def test_sqlite_that_is_locked_is_asked_again(tmp_path, key):
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db", connect_args={"timeout": 0.05})
    inbox = Inbox(sessionmaker(engine))
    metadata.create_all(engine)
    claimed = inbox.claim(key, "token", 30)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(DeduplicationError, match="locked"):
            inbox.complete(claimed)
        assert inbox.renew(claimed, 30)
        writer.rollback()

    assert inbox.complete(claimed)

    assert inbox.claim(key, "other", 30) is ClaimRefusal.DONE
    engine.dispose()


def test_on_sqlite_what_a_listener_read_before_it_wrote_is_part_of_its_transaction(
    sqlite_database, effect, key
):
    inbox = Inbox(sqlite_database.sessions)
    write_ahead(sqlite_database)
    claimed = inbox.claim(key, "token", 30)
    session = claimed.keywords["session"]
    assert session.scalars(select(effect.text)).all() == []
    with sqlite_database.sessions.begin() as other:
        other.add(effect(text="meanwhile"))

    seen_again = session.scalars(select(effect.text)).all()

    assert inbox.abandon(claimed)
    assert seen_again == []


def test_on_sqlite_a_mark_that_comes_too_late_for_its_transaction_is_the_listeners_failure(
    sqlite_database, effect, key
):
    inbox = Inbox(sqlite_database.sessions)
    write_ahead(sqlite_database)
    claimed = inbox.claim(key, "token", 30)
    claimed.keywords["session"].scalars(select(effect.text)).all()
    with sqlite_database.sessions.begin() as other:
        other.add(effect(text="meanwhile"))

    with pytest.raises(OperationalError, match="locked"):  # asked again it would say the same, for ever
        inbox.complete(claimed)

    assert inbox.abandon(claimed)
    assert sqlite_database.marks() == 0


def write_ahead(database):
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")


# --- connections that break --------------------------------------------------------------------------


def break_connection(claimed, database):
    """End the connection of a claim as a database does that goes away."""
    session = claimed.keywords["session"]
    if database.schema is None:
        session.connection().connection.dbapi_connection.close()
        return
    backend = session.scalar(text("SELECT pg_backend_pid()"))
    with database.engine.connect() as other:
        other.execute(text("SELECT pg_terminate_backend(:backend, 5000)"), {"backend": backend})


def test_what_was_not_committed_when_the_connection_broke_is_not_done(database, effect, key, caplog):
    inbox = Inbox(database.sessions)
    claimed = inbox.claim(key, "token", 30)
    claimed.keywords["session"].add(effect(text="effect"))
    claimed.keywords["session"].flush()
    break_connection(claimed, database)

    with pytest.raises(DeduplicationError, match="can't mark"):
        inbox.complete(claimed)

    assert inbox.claim(key, "other", 30) is ClaimRefusal.BUSY
    assert not inbox.complete(claimed)
    assert "what was done is rolled back" in caplog.text
    assert (database.effects(), database.marks()) == ([], 0)
    assert inbox.abandon(inbox.claim(key, "other", 30))


def test_a_listener_that_loses_its_connection_has_failed_and_runs_again(
    database, effect, make_consumer, publisher, running
):
    consumer = make_consumer(Inbox(database.sessions))
    attempts = []

    @consumer.listener()
    def lose_it(event, session):
        session.add(effect(text=f"attempt {len(attempts)}"))
        session.flush()
        attempts.append(1)
        if len(attempts) == 1:
            break_connection(session_of(session), database)
            session.execute(text("SELECT 1"))

    publisher.publish(EVENT)

    running(consumer)
    eventually(database.marks)

    assert database.effects() == ["attempt 1"]


def session_of(session):
    class WithSession:
        keywords = {"session": session}  # noqa: RUF012

    return WithSession


class LosesAnswers:
    """A connection that breaks when it has committed, before anybody is told."""

    armed = threading.Event()
    error = Exception()

    def commit(self):
        super().commit()
        if self.armed.is_set():
            self.armed.clear()
            self.close()
            raise self.error


class SqliteThatLosesAnswers(LosesAnswers, sqlite3.Connection):
    error = sqlite3.ProgrammingError("Cannot operate on a closed database.")


class PostgresThatLosesAnswers(LosesAnswers, psycopg.Connection):
    error = psycopg.OperationalError("server closed the connection unexpectedly")


@pytest.fixture
def losing(database):
    """Return an engine whose connections lose the answer to their next commit once ``armed``."""
    if database.schema is None:
        engine = create_engine(database.url, connect_args={"factory": SqliteThatLosesAnswers})
    else:
        conninfo = make_url(database.url).set(drivername="postgresql").render_as_string(hide_password=False)
        options = f"-csearch_path={database.schema}"
        engine = create_engine(
            database.url, creator=lambda: PostgresThatLosesAnswers.connect(conninfo, options=options)
        )
    yield engine
    LosesAnswers.armed.clear()
    engine.dispose()


def test_a_commit_whose_answer_was_lost_is_found_out(database, losing, effect, key):
    inbox = Inbox(sessionmaker(losing))
    claimed = inbox.claim(key, "token", 30)
    claimed.keywords["session"].add(effect(text="effect"))
    LosesAnswers.armed.set()

    with pytest.raises(DeduplicationError, match="can't mark"):
        inbox.complete(claimed)

    assert inbox.complete(claimed)
    assert inbox.complete(claimed)
    assert (database.effects(), database.marks()) == (["effect"], 1)


def test_a_worker_whose_commit_gets_no_answer_does_the_work_once(
    database, losing, effect, make_consumer, publisher, left_in, running
):
    consumer = make_consumer(Inbox(sessionmaker(losing)))
    runs = []

    @consumer.listener()
    def write(event, session):
        runs.append(event)
        session.add(effect(text="effect"))
        LosesAnswers.armed.set()

    publisher.publish(EVENT)

    running(consumer)
    eventually(lambda: left_in() == 0)

    assert len(runs) == 1
    assert database.effects() == ["effect"]


def test_while_the_database_is_away_nothing_is_received_and_then_everything_is_done(
    postgres_server, effect, make_consumer, publisher, left_in, running
):
    engine = create_engine(postgres_server.url, connect_args={"connect_timeout": 2}, pool_pre_ping=True)
    effect.metadata.create_all(engine)
    metadata.create_all(engine)
    # What was in flight when the connections broke comes again when its visibility runs out.
    inbox = Inbox(sessionmaker(engine))
    consumer = make_consumer(inbox, visibility_timeout_seconds=3)
    at_work = threading.Semaphore(0)

    @consumer.listener(name="write")
    def write(event, session):
        session.add(effect(text=event["name"]))
        at_work.release()

    running(consumer, concurrency=4)
    for number in range(20):
        publisher.publish({**EVENT, "name": f"before {number:02}"})
    for _ in range(5):
        assert at_work.acquire(timeout=30)

    postgres_server.kill()
    for number in range(20):
        publisher.publish({**EVENT, "name": f"while {number:02}"})
    eventually(lambda: not health_of(inbox))
    postgres_server.start()
    eventually(lambda: left_in() == 0)

    with engine.connect() as connection:
        names = connection.scalars(text("SELECT text FROM effects ORDER BY text")).all()
    assert names == [f"{when} {number:02}" for when in ("before", "while") for number in range(20)]
    assert left_in("stock-dlq") == 0
    engine.dispose()


def health_of(inbox):
    try:
        inbox.check()
    except DeduplicationError:
        return False
    return True


# --- processes that are killed -----------------------------------------------------------------------

PROGRAM = """
import os, sys
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, QueueOptions
from melange.deduplication import Claimed
from melange.drivers.memory import InMemoryDriver
from melange.outbox import Inbox, inbox_transaction

url, schema, end = sys.argv[1:]

def die(point):
    if point == end:
        os._exit(137)  # as after a SIGKILL: no handler runs

class DyingInbox(Inbox):
    def claim(self, key, *arguments):
        # The queue is in memory, another one in each process.
        answer = super().claim(key._replace(queue_address="stock"), *arguments)
        if isinstance(answer, Claimed):
            die("after the claim")
        return answer

    def complete(self, claimed):
        die("before the mark")
        is_marked = super().complete(claimed)
        die("after the mark")
        return is_marked

begin = inbox_transaction.InboxClaim._begin

def begin_or_die(*arguments):
    die("after the attempt")
    return begin(*arguments)

inbox_transaction.InboxClaim._begin = begin_or_die

engine = create_engine(url, connect_args={"options": f"-csearch_path={schema}"} if schema else {})
with InMemoryDriver() as driver:
    consumer = ExchangeMessageConsumer(
        "stock", "products", driver=driver, deduplication=DyingInbox(sessionmaker(engine)),
        queue=QueueOptions(wait_seconds=0, visibility_timeout_seconds=1),
    )

    @consumer.listener(name="write")
    def write(event, session):
        session.execute(text("INSERT INTO effects (text) VALUES ('effect')"))
        die("after the effect")

    ExchangeMessagePublisher("products", driver).publish({}, "ProductAdded", message_id="m-1")
    consumer.consume_event()
engine.dispose()
"""


@pytest.mark.parametrize(
    ("end", "left_behind", "attempts"),
    [
        ("after the attempt", 0, [1]),
        ("after the claim", 0, [1]),
        ("after the effect", 0, [1]),
        ("before the mark", 0, [1]),
        ("after the mark", 1, []),
    ],
)
def test_a_process_that_is_killed_leaves_effect_and_mark_or_neither_and_has_used_an_attempt(
    database, key, end, left_behind, attempts
):
    def run(end=""):
        command = [sys.executable, "-c", PROGRAM, database.url, database.schema or "", end]
        return subprocess.run(command, check=False, timeout=60).returncode

    assert run(end) == 137
    assert (len(database.effects()), database.marks()) == (left_behind, left_behind)
    assert database.attempts() == attempts
    if attempts:
        eventually(lambda: run(end) == 137)  # it is busy until the lease ends
        assert database.attempts() == [2]

    # The message comes again; PostgreSQL may need a moment to see that the process is dead.
    eventually(lambda: run() == 0 and database.marks())

    assert (database.effects(), database.marks(), database.attempts()) == (["effect"], 1, [])
