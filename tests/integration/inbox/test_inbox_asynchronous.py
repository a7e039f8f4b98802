"""An inbox with asynchronous sessions: the same promises, on the worker's event loop."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine

from melange import ConfigurationError, Worker
from melange.outbox import Inbox
from waiting import eventually

EVENT = {"event_type_name": "ProductAdded"}


@pytest.fixture(params=["aiosqlite", "psycopg", "asyncpg"])
def driver_name(request):
    return request.param


@pytest.fixture
def database(driver_name, request, tmp_path):
    kind = "sqlite" if driver_name == "aiosqlite" else "postgres"
    return request.getfixturevalue(f"{kind}_database")


@pytest.fixture
def engine(database, driver_name):
    """Return an engine whose connections are closed on the loop that they belong to."""
    url = database.engine.url.set(drivername=f"{database.engine.url.get_backend_name()}+{driver_name}")
    options = {
        "aiosqlite": {},
        "psycopg": {"options": f"-csearch_path={database.schema}"},
        "asyncpg": {"server_settings": {"search_path": str(database.schema)}},
    }
    return create_async_engine(url, connect_args=options[driver_name])


@pytest.fixture
def inbox(engine):
    return Inbox(async_sessionmaker(engine))


@pytest.fixture
def running(engine, inbox):
    """Start one worker, and stop it at the end, when the engine's connections have been closed on its loop."""
    workers = []

    def start(consumer, **options):
        worker = Worker(consumer, handle_signals=False, grace_seconds=10, **options)
        worker.start()
        workers.append(worker)

    yield start
    for worker in workers:
        try:  # a message may be gone before its attempts are forgotten, and a connection back
            eventually(
                lambda: worker._shared.threads.is_idle(math.inf) and engine.pool.checkedout() == 0  # noqa: B023
            )
        finally:
            worker._shared.event_loop.run(engine.dispose())
            assert worker.stop(30)


def test_effects_and_marks_come_together_and_once(
    database, inbox, effect, make_consumer, publisher, left_in, running
):
    consumer = make_consumer(inbox)
    attempts = Counter()

    @consumer.listener(name="write")
    async def write(event, session):
        assert isinstance(session, AsyncSession)
        name = event["name"]
        attempts[name] += 1
        session.add(effect(text=f"{name}, attempt {attempts[name]}"))
        await session.flush()
        async with session.begin_nested():
            await session.execute(text("SELECT 1"))
        await asyncio.sleep(0.01)
        if attempts[name] == 1:
            raise ValueError

    for name in "abcdefgh" * 2:  # each comes twice
        publisher.publish({**EVENT, "name": name}, message_id=name)

    running(consumer, concurrency=4)
    eventually(lambda: left_in() == 0)

    assert database.effects() == [f"{name}, attempt 2" for name in "abcdefgh"]
    assert database.marks() == 8
    assert set(attempts.values()) == {2}


@pytest.mark.parametrize("misdeed", [AsyncSession.commit, AsyncSession.rollback, AsyncSession.close])
def test_a_listener_that_ends_the_transaction_itself_has_failed(
    database, inbox, effect, make_consumer, publisher, left_in, running, misdeed
):
    consumer = make_consumer(inbox, max_attempts=1)

    @consumer.listener(name="misbehave")
    async def misbehave(event, session):
        session.add(effect(text="effect"))
        await session.flush()
        await misdeed(session)

    publisher.publish(EVENT)

    running(consumer)
    eventually(lambda: left_in("stock-dlq") == 1)

    assert (database.effects(), database.marks()) == ([], 0)


def test_a_database_that_is_not_there_is_an_outage(make_consumer, publisher, left_in, caplog):
    engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nowhere")
    consumer = make_consumer(Inbox(async_sessionmaker(engine)))

    @consumer.listener()
    async def work(event, session):
        pytest.fail("without its inbox no listener runs")

    publisher.publish(EVENT)
    worker = Worker(consumer, handle_signals=False)

    worker.start()
    eventually(lambda: "can't look for the inbox" in caplog.text)

    assert worker.stop(30)
    assert left_in() == 1


class TestWithoutADatabase:
    """What is refused before anything is connected to."""

    @pytest.fixture
    def inbox(self):
        return Inbox(async_sessionmaker(create_async_engine("sqlite+aiosqlite://")))

    def test_a_synchronous_listener_is_refused(self, inbox, make_consumer):
        with pytest.raises(ConfigurationError, match="must be `async def`"):
            make_consumer(inbox).listener(name="work")(lambda event, session: None)

    def test_a_session_that_all_share_is_refused(self, inbox):
        shared = async_scoped_session(async_sessionmaker(), scopefunc=asyncio.current_task)

        with pytest.raises(ConfigurationError, match="scoped_session"):
            Inbox(shared)

    def test_a_second_worker_is_refused_for_connections_belong_to_one_event_loop(self, inbox, make_consumer):
        consumer = make_consumer(inbox)

        @consumer.listener()
        async def work(event, session):
            pass

        inbox.use_event_loop(lambda coroutine: coroutine.close())

        with pytest.raises(ConfigurationError, match="another engine"):
            Worker(consumer, handle_signals=False).start()

    def test_without_a_worker_it_says_what_it_needs(self, inbox):
        with pytest.raises(ConfigurationError, match="event loop of a worker"):
            inbox.check()
