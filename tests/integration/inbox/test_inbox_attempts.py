"""Attempts are counted in the database, before the listener runs and whatever becomes of its transaction."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker

from melange import ConfigurationError, DeduplicationError
from melange.deduplication import ClaimRefusal
from melange.outbox import Inbox
from melange.testing.clock import ManualClock

EVENT = {"event_type_name": "ProductAdded"}


def test_attempts_and_marks_outlive_the_process(inbox):
    assert inbox.outlives_process


def test_an_attempt_is_there_while_the_listener_runs_and_gone_with_the_mark(
    database, inbox, make_consumer, publisher
):
    consumer = make_consumer(inbox)
    seen_inside = []
    consumer.listener()(lambda event: seen_inside.append(database.attempts()))
    publisher.publish(EVENT)

    consumer.consume_event()

    assert seen_inside == [[1]]
    assert (database.attempts(), database.marks()) == ([], 1)


def test_an_attempt_stays_counted_when_what_the_listener_did_is_rolled_back(
    database, inbox, effect, make_consumer, publisher
):
    consumer = make_consumer(inbox)

    @consumer.listener()
    def fail(event, session):
        session.add(effect(text="undone"))
        session.flush()
        raise ValueError

    publisher.publish(EVENT)

    consumer.consume_event()

    assert (database.effects(), database.attempts()) == ([], [1])


def test_processes_continue_each_others_numbers(database, key):
    first, second = Inbox(database.sessions), Inbox(database.sessions)

    numbers = []
    for inbox in (first, second, first):
        claimed = inbox.claim(key, "token", 30)
        numbers.append(claimed.attempt)
        inbox.abandon(claimed)

    assert numbers == [1, 2, 3]


def test_a_claim_of_another_process_is_busy_and_counts_no_attempt(database, key):
    first, second = Inbox(database.sessions), Inbox(database.sessions)
    claimed = first.claim(key, "first", 30)

    assert second.claim(key, "second", 30) is ClaimRefusal.BUSY

    assert database.attempts() == [1]
    first.abandon(claimed)
    claimed = second.claim(key, "second", 30)
    assert claimed.attempt == 2
    second.abandon(claimed)


def test_a_process_that_vanished_is_waited_for_until_its_lease_ends(sqlite_database, key):
    clock = ManualClock()
    vanished, successor = (Inbox(sqlite_database.sessions, clock=clock) for _ in range(2))
    claimed = vanished.claim(key, "vanished", 30)
    claimed.keywords["session"].close()

    assert successor.claim(key, "successor", 30) is ClaimRefusal.BUSY
    clock.advance(31)

    claimed = successor.claim(key, "successor", 30)
    assert claimed.attempt == 2
    successor.abandon(claimed)


def test_on_postgres_the_open_transaction_keeps_others_away_when_the_lease_is_over(postgres_database, key):
    first, second = Inbox(postgres_database.sessions), Inbox(postgres_database.sessions)
    claimed = first.claim(key, "first", 0)

    assert second.claim(key, "second", 30) is ClaimRefusal.BUSY

    assert postgres_database.attempts() == [1]
    assert first.complete(claimed)


def test_done_messages_count_no_attempt(database, inbox, key):
    inbox.complete(inbox.claim(key, "token", 30))

    assert inbox.claim(key, "other", 30) is ClaimRefusal.DONE

    assert database.attempts() == []


def test_a_completion_that_is_rolled_back_keeps_the_attempt(database, inbox, effect, key):
    claimed = inbox.claim(key, "token", 30)
    claimed.keywords["session"].execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
    event.listen(claimed.keywords["session"], "before_commit", refuse)

    with pytest.raises(OperationalError):
        inbox.complete(claimed)
    inbox.abandon(claimed)

    assert (database.marks(), database.attempts()) == (0, [1])


def refuse(session):
    raise OperationalError("COMMIT", {}, Exception("refused"))


def test_the_commit_of_an_attempt_does_not_wait_for_the_disk_and_the_listeners_does(postgres_database, key):
    inbox = Inbox(postgres_database.sessions)
    settings = []

    @event.listens_for(postgres_database.engine, "commit")
    def note(connection):
        settings.append(connection.exec_driver_sql("SHOW synchronous_commit").scalar())

    inbox.complete(inbox.claim(key, "token", 30))

    assert settings[:2] == ["off", "on"]  # the third deletes old marks


@pytest.fixture
def troubled_engine(database):
    """Return an engine that refuses to begin while ``trouble`` holds a number, after so many transactions."""
    options = {"options": f"-csearch_path={database.schema}"} if database.schema else {}
    engine = create_engine(database.url, connect_args=options)
    trouble = []

    @event.listens_for(engine, "begin")
    def begin(connection):
        if trouble:
            trouble[0] -= 1
            if trouble[0] < 0:
                raise OperationalError("BEGIN", {}, Exception("away"))

    yield engine, trouble
    engine.dispose()


def test_a_claim_that_failed_half_way_uses_up_no_attempt(database, troubled_engine, key):
    engine, trouble = troubled_engine
    inbox = Inbox(sessionmaker(engine))
    trouble.append(1)  # the attempt is counted, and the listener's transaction cannot begin
    for number in range(3):
        with pytest.raises(DeduplicationError):
            inbox.claim(key, f"token-{number}", 30)
        trouble[0] = 1
    assert database.attempts() == [1]

    trouble.clear()

    claimed = inbox.claim(key, "token", 30)
    assert claimed.attempt == 1
    assert inbox.complete(claimed)


def test_an_outage_of_the_database_uses_up_no_attempt(database, troubled_engine, key):
    engine, trouble = troubled_engine
    inbox = Inbox(sessionmaker(engine))
    trouble.append(0)
    for number in range(3):
        with pytest.raises(DeduplicationError):
            inbox.claim(key, f"token-{number}", 30)

    trouble.clear()

    claimed = inbox.claim(key, "token", 30)
    assert claimed.attempt == 1
    assert inbox.abandon(claimed)


def test_an_outage_after_a_claim_that_failed_half_way_uses_up_no_attempt(database, troubled_engine, key):
    engine, trouble = troubled_engine
    inbox = Inbox(sessionmaker(engine))
    trouble.append(1)  # the attempt is counted, and the listener's transaction cannot begin
    for number in range(3):
        with pytest.raises(DeduplicationError):
            inbox.claim(key, f"token-{number}", 30)
        trouble[0] = 0  # and then nothing can

    trouble.clear()

    claimed = inbox.claim(key, "token", 30)
    assert claimed.attempt == 1
    assert inbox.abandon(claimed)


def test_a_message_can_be_claimed_after_no_session_could_be_made(database, key):
    makers = [database.sessions]

    def make_session():
        return makers[0]()

    inbox = Inbox(make_session)
    makers.insert(0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        inbox.claim(key, "token", 30)

    makers.pop(0)

    claimed = inbox.claim(key, "token", 30)
    assert inbox.abandon(claimed)


def test_old_attempts_are_deleted_with_old_marks(database, key):
    clock = ManualClock()
    inbox = Inbox(database.sessions, retention_seconds=60, clock=clock)
    inbox.abandon(inbox.claim(key, "token", 1))
    clock.advance(62)
    young = key._replace(message_id="young")
    inbox.abandon(inbox.claim(young, "token", 1))

    assert inbox.purge() == 1

    assert database.attempts() == [1]
    claimed = inbox.claim(young, "token", 1)
    assert claimed.attempt == 2
    assert inbox.abandon(claimed)


def test_another_database_is_refused_by_name(sqlite_database, key, monkeypatch):
    monkeypatch.setattr(sqlite_database.engine.dialect, "name", "oracle")

    with pytest.raises(ConfigurationError, match="bound to oracle"):
        Inbox(sqlite_database.sessions).claim(key, "token", 30)


def test_a_lease_of_no_length_does_not_break_the_inbox(database, inbox, key):
    claimed = inbox.claim(key, "token", 0)

    assert inbox.complete(claimed)
