"""Sessions with several databases: the mark goes where the effect goes, or the write is refused."""

from __future__ import annotations

import traceback

import pytest
from sqlalchemy import Insert, Update, create_engine, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool

from melange import ConfigurationError, DeduplicationError
from melange.deduplication import Claimed, ClaimRefusal
from melange.outbox import Inbox, InboxAttempts, InboxMark, metadata
from waiting import eventually

EVENT = {"event_type_name": "ProductAdded"}


class Elsewhere(DeclarativeBase):
    """What is in another database."""


class Audit(Elsewhere):
    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@pytest.fixture
def follower(tmp_path, effect):
    """Return a database with the same tables, which cannot store marks: it has no tables of melange."""
    engine = create_engine(f"sqlite:///{tmp_path}/follower.db")
    effect.metadata.create_all(engine)
    Elsewhere.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def routing_session(database, follower):
    """Return the class of a session that reads from a follower, as SQLAlchemy's documentation shows it."""

    class RoutingSession(Session):
        def get_bind(self, mapper=None, clause=None, **arguments):
            if self._flushing or isinstance(clause, Update):
                return database.engine
            return follower

    return RoutingSession


def test_with_a_session_that_reads_from_a_follower_mark_and_effect_are_in_one_transaction(
    database, follower, routing_session, effect, make_consumer, publisher
):
    consumer = make_consumer(Inbox(sessionmaker(class_=routing_session)))
    seen_inside = []

    @consumer.listener()
    def write(event, session):
        assert session.scalars(select(effect.text)).all() == []  # on the follower
        session.add(effect(text="done"))
        session.flush()
        seen_inside.append((database.effects(), database.marks()))

    publisher.publish(EVENT)

    consumer.consume_event()

    assert seen_inside == [([], 0)]
    assert (database.effects(), database.marks(), database.attempts()) == (["done"], 1, [])


def test_with_a_session_that_reads_from_a_follower_every_call_asks_the_writer(database, routing_session, key):
    inbox = Inbox(sessionmaker(class_=routing_session))

    inbox.check()
    failed = inbox.claim(key, "failed", 30)
    assert inbox.abandon(failed)
    inbox.forget_attempts(key)
    claimed = inbox.claim(key, "token", 30)
    assert claimed.attempt == 1
    assert inbox.complete(claimed)
    assert inbox.complete(claimed)  # which it finds in the table
    assert inbox.claim(key, "other", 30) is ClaimRefusal.DONE
    assert inbox.purge() == 0


@pytest.mark.parametrize("way", ["unit of work", "bulk", "core", "text"])
def test_what_a_listener_writes_to_another_database_is_refused_and_nothing_is_there(
    database, follower, effect, make_consumer, publisher, caplog, way
):
    sessions = sessionmaker(database.engine, binds={Elsewhere: follower})
    consumer = make_consumer(Inbox(sessions), max_attempts=1)

    @consumer.listener()
    def write(event, session):
        session.add(effect(text="here"))
        session.flush()
        if way == "unit of work":
            session.add(Audit(text="there"))  # flushed when the listener has returned
        elif way == "bulk":
            session.bulk_insert_mappings(Audit, [{"text": "there"}])
        elif way == "core":
            session.execute(insert(Audit).values(text="there"))
        else:
            session.connection(bind_arguments={"mapper": Audit}).execute(
                text(" INSERT INTO audit (text) VALUES ('there')")
            )

    publisher.publish(EVENT)

    consumer.consume_event()

    assert "wrote with the inbox's session to another database" in caplog.text
    assert (database.effects(), database.marks()) == ([], 0)
    with follower.connect() as connection:
        assert connection.scalars(text("SELECT text FROM audit")).all() == []


def test_a_listener_may_read_from_another_database(database, follower, effect, make_consumer, publisher):
    sessions = sessionmaker(database.engine, binds={Elsewhere: follower})
    with sessions.begin() as session:
        session.add(Audit(text="there"))
    consumer = make_consumer(Inbox(sessions))

    @consumer.listener()
    def copy(event, session):
        session.add(effect(text=session.scalars(select(Audit.text)).one()))

    publisher.publish(EVENT)

    consumer.consume_event()

    assert (database.effects(), database.marks()) == (["there"], 1)


def test_a_session_whose_bulk_inserts_go_to_the_follower_is_refused_when_it_does_one(
    database, follower, effect, key, routing_session
):
    inbox = Inbox(sessionmaker(class_=routing_session))
    claimed = inbox.claim(key, "token", 30)

    with pytest.raises(ConfigurationError, match="another database"):
        claimed.keywords["session"].execute(insert(effect).values(text="lost"))

    assert inbox.abandon(claimed)
    with follower.connect() as connection:
        assert connection.scalars(text("SELECT text FROM effects")).all() == []


def test_an_engine_bound_to_classes_only_is_refused_with_what_to_do(database, effect, key):
    inbox = Inbox(sessionmaker(binds={effect: database.engine}))

    for call in (inbox.check, lambda: inbox.claim(key, "token", 30)):
        with pytest.raises(ConfigurationError, match="not bound to a database for melange_inbox"):
            call()


def test_tables_of_melange_can_be_bound_by_their_class(database, effect, key):
    engines = {effect: database.engine, InboxMark: database.engine}
    inbox = Inbox(sessionmaker(binds=engines))

    claimed = inbox.claim(key, "token", 30)
    claimed.keywords["session"].add(effect(text="done"))

    assert inbox.complete(claimed)
    assert (database.effects(), database.marks()) == (["done"], 1)


def test_two_phase_sessions_are_refused(database):
    with pytest.raises(ConfigurationError, match="twophase"):
        Inbox(sessionmaker(database.engine, twophase=True))


def test_a_session_of_a_test_that_rolls_everything_back_works(postgres_database, effect, key):
    database = postgres_database
    with database.engine.connect() as connection, connection.begin() as transaction:
        inbox = Inbox(sessionmaker(connection, join_transaction_mode="create_savepoint"))

        claimed = inbox.claim(key, "token", 30)
        claimed.keywords["session"].add(effect(text="done"))

        assert claimed.attempt == 1
        assert inbox.complete(claimed)
        assert inbox.claim(key, "other", 30) is ClaimRefusal.DONE
        transaction.rollback()
    assert (database.effects(), database.marks(), database.attempts()) == ([], 0, [])


# --- what errors say ---------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["jj@qq/zz", "jj@qq", "jj@qq?zz", "jj@qq/zz?a=1", "x@jj/qq@zz"])
def test_no_part_of_a_password_that_was_not_escaped_is_shown(key, password):
    url = f"postgresql+psycopg://app:{password}@127.0.0.1:1/nowhere?connect_timeout=1"
    engine = create_engine(url, poolclass=NullPool)
    inbox = Inbox(sessionmaker(engine))

    for call in (inbox.check, lambda: inbox.claim(key, "token", 30), lambda: inbox.forget_attempts(key)):
        with pytest.raises(ConfigurationError, match="password") as caught:
            call()

        said = "".join(traceback.format_exception(caught.value, limit=0))
        assert not any(part in said for part in ("jj", "qq", "zz"))
        assert "%40" in said


def test_a_password_that_was_escaped_hides_nothing(key):
    url = "postgresql+psycopg://app:jj%40qq%2Fzz@127.0.0.1:1/nowhere?connect_timeout=1"
    inbox = Inbox(sessionmaker(create_engine(url, poolclass=NullPool)))

    with pytest.raises(DeduplicationError, match=r"127\.0\.0\.1") as caught:
        inbox.check()

    assert "jj@qq" not in "".join(traceback.format_exception(caught.value))


def test_values_of_rows_are_not_quoted(database, effect, key, caplog):
    with database.engine.begin() as connection:
        connection.execute(text("DROP TABLE melange_inbox_attempts"))

    with pytest.raises(DeduplicationError, match="melange outbox schema") as caught:
        Inbox(database.sessions).claim(key, "token", 30)

    assert key.message_id not in str(caught.value)
    metadata.create_all(database.engine)


# --- asynchronous sessions ---------------------------------------------------------------------------


def test_an_asynchronous_session_that_reads_from_a_follower_is_routed_as_well(
    sqlite_database, tmp_path, effect, make_consumer, publisher, running
):
    writer = create_async_engine(
        sqlite_database.url.replace("sqlite:", "sqlite+aiosqlite:"), poolclass=NullPool
    )
    reader = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/follower.db", poolclass=NullPool)

    class RoutingSession(Session):
        def get_bind(self, mapper=None, clause=None, **arguments):
            return writer.sync_engine if self._flushing or isinstance(clause, Insert) else reader.sync_engine

    inbox = Inbox(lambda: AsyncSession(sync_session_class=RoutingSession))
    consumer = make_consumer(inbox)

    @consumer.listener()
    async def write(event, session):
        session.add(effect(text="done"))

    publisher.publish(EVENT)

    running(consumer)
    eventually(lambda: sqlite_database.marks() == 1)

    assert sqlite_database.effects() == ["done"]
    assert sqlite_database.attempts() == []


def test_the_tables_have_what_the_models_say(database):
    with Session(database.engine) as session:
        assert session.scalars(select(InboxMark)).all() == []
        assert session.scalars(select(InboxAttempts)).all() == []


def test_claims_are_objects_of_their_own(database, key):
    inbox = Inbox(database.sessions)

    claimed = inbox.claim(key, "token", 30)

    assert isinstance(claimed, Claimed)
    assert claimed == Claimed(key, "token", 1)
    assert inbox.abandon(claimed)
