"""What a listener does with the session of an inbox is there together with its mark, or not at all."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import ForeignKey, create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

from melange import ConfigurationError, DeduplicationError, ExchangeListener, Reject
from melange.deduplication import Claimed, ClaimRefusal
from melange.domain.sqlalchemy import on_commit
from melange.outbox import Inbox
from melange.testing.clock import ManualClock
from waiting import eventually

EVENT = {"event_type_name": "ProductAdded"}
DEADLINE_SECONDS = 30


# --- together or not at all --------------------------------------------------------------------------


def test_effect_and_mark_come_to_be_at_the_same_time(database, inbox, effect, make_consumer, publisher):
    consumer = make_consumer(inbox)
    seen_inside = []

    @consumer.listener()
    def write(event, session):
        session.add(effect(text="done"))
        session.flush()
        seen_inside.append((database.effects(), database.marks()))

    publisher.publish(EVENT)

    consumer.consume_event()

    assert seen_inside == [([], 0)]
    assert (database.effects(), database.marks()) == (["done"], 1)


def test_a_listener_of_a_class_gets_the_session_and_its_other_keywords(
    database, inbox, effect, make_consumer, publisher
):
    class Write(ExchangeListener):
        def process(self, event, session, *, message_id):
            session.add(effect(text=message_id))

    consumer = make_consumer(inbox)
    consumer.subscribe(Write())
    message_id = publisher.publish(EVENT)

    consumer.consume_event()

    assert database.effects() == [message_id]


def test_what_a_failed_listener_did_is_gone_and_so_is_its_mark(
    database, inbox, effect, make_consumer, publisher, left_in, running
):
    consumer = make_consumer(inbox)
    attempts = []

    @consumer.listener()
    def fail_once(event, session):
        session.add(effect(text=f"attempt {len(attempts)}"))
        session.flush()
        attempts.append(database.marks())
        if len(attempts) == 1:
            raise ValueError

    publisher.publish(EVENT)

    running(consumer)
    eventually(lambda: left_in() == 0)

    assert attempts == [0, 0]
    assert (database.effects(), database.marks()) == (["attempt 1"], 1)


def test_what_a_listener_did_before_it_rejects_is_gone(
    database, inbox, effect, make_consumer, publisher, left_in
):
    consumer = make_consumer(inbox)

    @consumer.listener()
    def reject(event, session):
        session.add(effect(text="half"))
        session.flush()
        raise Reject("no")

    publisher.publish(EVENT)

    consumer.consume_event()

    assert (database.effects(), database.marks()) == ([], 0)
    assert left_in("stock-dlq") == 1


def test_of_two_listeners_each_has_its_transaction(database, inbox, effect, make_consumer, publisher):
    consumer = make_consumer(inbox)

    @consumer.listener(name="good")
    def good(event, session):
        session.add(effect(text="good"))

    @consumer.listener(name="bad")
    def bad(event, session):
        session.add(effect(text="bad"))
        session.flush()
        raise ValueError

    publisher.publish(EVENT)

    consumer.consume_event()

    assert (database.effects(), database.marks()) == (["good"], 1)


def test_a_listener_that_asks_for_no_session_is_marked_all_the_same(
    database, inbox, make_consumer, publisher
):
    consumer = make_consumer(inbox)
    seen = []
    consumer.listener(name="plain")(seen.append)
    publisher.publish(EVENT, message_id="m-1")
    consumer.consume_event()

    publisher.publish(EVENT, message_id="m-1")
    consumer.consume_event()

    assert seen == [EVENT]
    assert database.marks() == 1


def test_a_message_of_the_same_id_and_another_body_is_another_message(
    database, inbox, effect, make_consumer, publisher, left_in
):
    consumer = make_consumer(inbox)
    consumer.listener(name="write")(lambda event, session: session.add(effect(text=event["name"])))
    publisher.publish({**EVENT, "name": "one"}, message_id="m-1")
    consumer.consume_event()

    publisher.publish({**EVENT, "name": "other"}, message_id="m-1")
    consumer.consume_event()

    assert database.effects() == ["one", "other"]
    assert left_in("stock-dlq") == 0


# --- two at once -------------------------------------------------------------------------------------


def test_two_workers_that_share_a_queue_have_one_effect_per_message(
    database, effect, make_consumer, publisher, left_in, running
):
    # Who comes second, and finds out at the end, leaves the message until its visibility runs out.
    consumers = [
        make_consumer(Inbox(database.sessions), visibility_timeout_seconds=2, max_attempts=100)
        for _ in range(2)
    ]
    for consumer in consumers:
        consumer.listener(name="write")(lambda event, session: session.add(effect(text=event["name"])))
    names = [f"{number:02}" for number in range(20)]
    for name in names * 2:  # each comes twice
        publisher.publish({**EVENT, "name": name}, message_id=name)

    for consumer in consumers:
        running(consumer, concurrency=4)
    eventually(lambda: left_in() == 0)

    assert database.effects() == names
    assert database.marks() == len(names)


def test_of_two_who_get_as_far_as_the_mark_one_is_rolled_back(database, effect, key, monkeypatch):
    # As where the database has no locks to say who is at work.
    monkeypatch.setattr("melange.outbox.inbox_statements.take_lock", lambda connection, key: True)
    first, second = Inbox(database.sessions), Inbox(database.sessions)
    of_first = first.claim(key, "first", 0)  # and the lease is over
    of_second = second.claim(key, "second", 30)
    of_first.keywords["session"].add(effect(text="first"))
    assert first.complete(of_first)
    of_second.keywords["session"].add(effect(text="second"))

    assert not second.complete(of_second)

    assert (database.effects(), database.marks()) == (["first"], 1)
    assert second.claim(key, "second again", 30) is ClaimRefusal.DONE


def test_a_claim_holds_no_connection_once_it_is_refused(database, inbox, key):
    claimed = inbox.claim(key, "token", 30)
    held = database.engine.pool.checkedout()

    assert inbox.claim(key, "other", 30) is ClaimRefusal.BUSY
    assert database.engine.pool.checkedout() == held == 1

    inbox.complete(claimed)
    assert inbox.claim(key, "other", 30) is ClaimRefusal.DONE
    assert database.engine.pool.checkedout() == 0


def test_a_claim_keeps_nobody_else_from_writing(database, inbox, effect, key):
    claimed = inbox.claim(key, "token", 30)

    with database.sessions.begin() as session:
        session.add(effect(text="meanwhile"))

    assert inbox.abandon(claimed)
    assert database.effects() == ["meanwhile"]


# --- what a listener may do with the session ---------------------------------------------------------


def commit_it(session):
    session.commit()


def roll_it_back(session):
    session.rollback()


def close_it(session):
    session.close()


def begin_anew(session):
    session.rollback()
    session.execute(text("INSERT INTO effects (id, text) VALUES (7, 'in another transaction')"))


def roll_its_connection_back(session):
    session.connection().rollback()


@pytest.mark.parametrize("misdeed", [commit_it, roll_it_back, close_it, begin_anew, roll_its_connection_back])
def test_a_listener_that_ends_the_transaction_itself_has_failed_and_nothing_is_there(
    database, inbox, effect, make_consumer, publisher, left_in, caplog, misdeed
):
    consumer = make_consumer(inbox, max_attempts=1)

    @consumer.listener()
    def misbehave(event, session):
        session.add(effect(text="effect"))
        session.flush()
        misdeed(session)

    publisher.publish(EVENT)

    consumer.consume_event()

    assert (database.effects(), database.marks()) == ([], 0)
    assert "the inbox commits its session" in caplog.text
    assert left_in("stock-dlq") == 1


def test_a_commit_that_was_refused_has_done_nothing(database, inbox, effect, make_consumer, publisher):
    consumer = make_consumer(inbox)

    @consumer.listener()
    def commit_and_go_on(event, session):
        session.add(effect(text="effect"))
        try:
            session.commit()
        except ConfigurationError:
            assert database.effects() == []

    publisher.publish(EVENT)

    consumer.consume_event()

    assert (database.effects(), database.marks()) == (["effect"], 1)


def test_what_may_fail_on_its_own_goes_into_a_savepoint(database, inbox, effect, make_consumer, publisher):
    consumer = make_consumer(inbox)

    @consumer.listener()
    def write(event, session):
        session.add(effect(text="kept"))
        with session.begin_nested():
            session.add(effect(text="kept too"))
        try:
            with session.begin_nested():
                session.add(effect(text="undone"))
                raise ValueError
        except ValueError:
            pass
        session.begin_nested()  # left open

    publisher.publish(EVENT)

    consumer.consume_event()

    assert (database.effects(), database.marks()) == (["kept", "kept too"], 1)


def test_what_a_failed_listener_had_released_from_a_savepoint_is_gone(
    database, inbox, effect, make_consumer, publisher
):
    consumer = make_consumer(inbox, max_attempts=1)

    @consumer.listener()
    def fail(event, session):
        with session.begin_nested():
            session.add(effect(text="released"))
        raise ValueError

    publisher.publish(EVENT)

    consumer.consume_event()

    assert (database.effects(), database.marks()) == ([], 0)


def test_what_fails_after_the_commit_is_told_as_it_is(database, inbox, effect, key):
    def fail():
        raise ValueError("no mail was sent")

    claimed = inbox.claim(key, "token", 30)
    claimed.keywords["session"].add(effect(text="committed"))
    on_commit(claimed.keywords["session"])(fail)

    with pytest.raises(ValueError, match="no mail was sent"):
        inbox.complete(claimed)

    assert inbox.abandon(claimed)
    assert (database.effects(), database.marks()) == (["committed"], 1)


ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(3600)",
}


def test_a_statement_beyond_the_time_limit_is_interrupted_and_frees_worker_and_connection(
    database, inbox, effect, make_consumer, publisher, running, left_in
):
    consumer = make_consumer(inbox, timeout_seconds=2)
    interrupted = []

    @consumer.listener(name="write")
    def write(event, session, attempt):
        session.add(effect(text=f"attempt {attempt}"))
        session.flush()
        if attempt == 1:
            try:
                session.execute(text(ENDLESS[database.engine.dialect.name]))
            except DBAPIError as error:
                interrupted.append(error)

    publisher.publish(EVENT)

    running(consumer, concurrency=1)

    eventually(lambda: left_in() == 0)
    eventually(lambda: interrupted)
    assert database.effects() == ["attempt 2"]
    assert database.marks() == 1


def test_what_a_listener_does_beyond_its_time_limit_is_refused(
    database, inbox, effect, make_consumer, publisher, running, left_in
):
    consumer = make_consumer(inbox, timeout_seconds=2)
    goes_on, refusals = threading.Event(), []

    @consumer.listener(name="write")
    def write(event, session, attempt):
        if attempt == 1:
            goes_on.wait(DEADLINE_SECONDS)
        try:
            session.add(effect(text=f"attempt {attempt}"))
            session.flush()
        except ConfigurationError as error:
            refusals.append(str(error))

    publisher.publish(EVENT)

    running(consumer, concurrency=1)

    eventually(lambda: left_in() == 0)
    goes_on.set()
    eventually(lambda: refusals)
    assert "exceeded its time limit" in refusals[0]
    assert database.effects() == ["attempt 2"]
    eventually(lambda: database.engine.pool.checkedout() == 0)


def test_a_flush_that_failed_and_was_passed_over_is_a_failure(
    database, inbox, effect, make_consumer, publisher, caplog
):
    consumer = make_consumer(inbox)

    @consumer.listener()
    def fail_silently(event, session):
        session.add(effect(text=None))
        with pytest.raises(IntegrityError):
            session.flush()

    publisher.publish(EVENT)

    consumer.consume_event()

    assert PendingRollbackError.__name__ in caplog.text
    assert (database.effects(), database.marks()) == ([], 0)


def test_what_cannot_be_written_at_the_end_is_the_listeners_failure(
    database, inbox, effect, make_consumer, publisher, left_in
):
    consumer = make_consumer(inbox, max_attempts=1)
    consumer.listener(name="write")(lambda event, session: session.add(effect(text=None)))
    publisher.publish(EVENT)

    consumer.consume_event()

    assert (database.effects(), database.marks()) == ([], 0)
    assert left_in("stock-dlq") == 1


class Base(DeclarativeBase):
    pass


class Child(Base):
    """Has to have a parent by the time of the commit."""

    __tablename__ = "children"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column(
        ForeignKey("children.id", deferrable=True, initially="DEFERRED"), nullable=False
    )


def test_what_the_database_refuses_to_commit_is_the_listeners_failure(
    database, inbox, make_consumer, publisher, left_in
):
    Base.metadata.create_all(database.engine)
    consumer = make_consumer(inbox, max_attempts=1)
    consumer.listener(name="write")(lambda event, session: session.add(Child(id=1, parent_id=2)))
    publisher.publish(EVENT)

    consumer.consume_event()

    with database.sessions.begin() as session:  # on the same connection, if that was kept
        session.execute(text("SELECT 1"))
    assert database.marks() == 0
    assert left_in("stock-dlq") == 1


# --- setting it up -----------------------------------------------------------------------------------


def test_a_missing_table_is_told_with_what_to_do(database, inbox, key):
    with database.engine.begin() as connection:
        connection.execute(text("DROP TABLE melange_inbox"))

    with pytest.raises(DeduplicationError, match="melange outbox schema"):
        inbox.check()
    with pytest.raises(DeduplicationError, match="melange outbox schema"):
        inbox.claim(key, "token", 30)

    database.create_tables()
    assert inbox.check() is None
    assert isinstance(claimed := inbox.claim(key, "token", 30), Claimed)
    assert inbox.abandon(claimed)


def test_a_pool_that_is_too_small_is_told(database, key):
    engine = create_engine(database.engine.url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    inbox = Inbox(sessionmaker(engine.execution_options(schema_translate_map={None: database.schema})))
    claimed = inbox.claim(key, "token", 30)

    with pytest.raises(DeduplicationError, match="as many as listeners run at once"):
        inbox.claim(key._replace(message_id="another"), "token", 30)

    inbox.abandon(claimed)
    engine.dispose()


def test_a_session_that_all_share_is_refused(database, key):
    with pytest.raises(ConfigurationError, match="scoped_session"):
        Inbox(scoped_session(database.sessions))
    with pytest.raises(ConfigurationError, match="sessionmaker"):
        Inbox(lambda: database.engine)
    with database.sessions() as session:
        inbox = Inbox(lambda: session)
        session.execute(text("SELECT 1"))

        with pytest.raises(ConfigurationError, match="new session each time"):
            inbox.claim(key, "token", 30)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_retention_that_is_none_is_refused(database, seconds):
    with pytest.raises(ConfigurationError, match="retention_seconds"):
        Inbox(database.sessions, retention_seconds=seconds)


def test_an_asynchronous_listener_is_refused(inbox, make_consumer):
    async def work(event, session):
        pass

    with pytest.raises(ConfigurationError, match="must not be `async def`"):
        make_consumer(inbox).listener()(work)


def test_a_consumer_that_would_do_without_its_inbox_is_refused(inbox, make_consumer):
    with pytest.raises(ConfigurationError, match="leave it at 'retry'"):
        make_consumer(inbox, on_unavailable="process")


# --- retention ---------------------------------------------------------------------------------------


def test_old_marks_are_deleted_and_young_ones_kept(database, key):
    clock = ManualClock()
    inbox = Inbox(database.sessions, retention_seconds=60, clock=clock)
    inbox.complete(inbox.claim(key, "token", 30))
    clock.advance(61)
    young = key._replace(message_id="young")
    inbox.complete(inbox.claim(young, "token", 30))

    assert inbox.purge() == 1

    assert inbox.claim(young, "other", 30) is ClaimRefusal.DONE
    assert inbox.abandon(inbox.claim(key, "other", 30))


def test_marks_go_by_themselves_as_fast_as_they_come(database, key, monkeypatch):
    monkeypatch.setattr("melange.outbox.inbox._PURGE_EVERY", 10)
    monkeypatch.setattr("melange.outbox.inbox._PURGE_BATCH", 20)
    clock = ManualClock()
    inbox = Inbox(database.sessions, retention_seconds=60, clock=clock)

    for number in range(100):
        inbox.complete(inbox.claim(key._replace(message_id=str(number)), "token", 30))
        clock.advance(2)

    assert 30 <= database.marks() <= 40
