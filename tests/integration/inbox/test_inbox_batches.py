"""Batch listeners with an inbox: each event has its own mark, in the transaction of its own rows."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from integration.inbox.conftest import Effect
from melange import (
    ConfigurationError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    PartialFailure,
    Reject,
    Worker,
)
from melange.drivers.aws import AwsDriver
from melange.outbox import Inbox
from melange.server import Server
from waiting import eventually

EVENTS = 5
BATCH = "Counted"


@pytest.fixture
def run(database) -> Callable[[Callable[[Inbox], Coroutine[Any, Any, None]]], None]:
    """Run a scenario in an event loop, with an inbox whose connections are closed there."""

    async def scenario_with_inbox(scenario: Callable[[Inbox], Coroutine[Any, Any, None]]) -> None:
        url = database.engine.url
        is_sqlite = url.get_backend_name() == "sqlite"
        engine = create_async_engine(
            url.set(drivername="sqlite+aiosqlite" if is_sqlite else "postgresql+psycopg"),
            pool_size=2 * EVENTS,
            connect_args={} if is_sqlite else {"options": f"-csearch_path={database.schema}"},
        )
        try:
            await scenario(Inbox(async_sessionmaker(engine)))
        finally:
            await engine.dispose()

    return lambda scenario: asyncio.run(scenario_with_inbox(scenario))


async def work(consumer: ExchangeMessageConsumer, is_over: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        async with Worker(consumer, concurrency=EVENTS, grace_seconds=10).lifespan():
            while not is_over():
                await asyncio.sleep(0.01)


def publish(publisher: ExchangeMessagePublisher) -> None:
    publisher.publish_batch(
        [{"event_type_name": BATCH, "number": number} for number in range(EVENTS)],
        message_id=lambda event: f"message-{event['number']}",
    )


def test_the_rows_and_the_mark_of_an_event_come_together_and_once(
    database, run, make_consumer, publisher
) -> None:
    sizes: list[int] = []

    async def scenario(inbox: Inbox) -> None:
        consumer = make_consumer(inbox)

        @consumer.batch_listener(BATCH, max_events=EVENTS, max_seconds=1)
        async def insert(events, sessions: list[AsyncSession]) -> None:
            sizes.append(len(events))
            for event, session in zip(events, sessions, strict=True):
                session.add(Effect(text=str(event["number"])))

        for _ in range(2):  # the second time each of them is recognised
            publish(publisher)
        await work(consumer, lambda: database.marks() == EVENTS and consumer_is_idle(consumer))

    run(scenario)

    assert database.effects() == [str(number) for number in range(EVENTS)]
    assert database.marks() == sum(sizes) == EVENTS


def consumer_is_idle(consumer: ExchangeMessageConsumer) -> bool:
    depth = consumer.driver.measure_queue(consumer.queue)
    return not (depth.visible or depth.in_flight or depth.delayed)


def test_what_fails_is_rolled_back_alone_and_comes_again(database, run, make_consumer, publisher) -> None:
    seen: list[int] = []

    async def scenario(inbox: Inbox) -> None:
        consumer = make_consumer(inbox)

        @consumer.batch_listener(BATCH, max_events=EVENTS, max_seconds=0.2)
        async def insert(events, sessions: list[AsyncSession]) -> None:
            errors: dict[int, Exception] = {}
            for place, (event, session) in enumerate(zip(events, sessions, strict=True)):
                session.add(Effect(text=str(event["number"])))
                if event["number"] == 1:
                    errors[place] = Reject("never")
                elif event["number"] == 2 and event["number"] not in seen:
                    errors[place] = ConnectionError("later")
                seen.append(event["number"])
            if errors:
                raise PartialFailure(errors)

        publish(publisher)
        await work(consumer, lambda: consumer_is_idle(consumer))

    run(scenario)

    assert database.effects() == ["0", "2", "3", "4"]
    assert database.marks() == 4
    assert sorted(seen) == [0, 1, 2, 2, 3, 4]


def test_a_row_that_the_database_refuses_fails_its_event_alone(
    database, run, make_consumer, publisher
) -> None:
    refused: list[str] = []

    async def scenario(inbox: Inbox) -> None:
        consumer = make_consumer(inbox)

        @consumer.batch_listener(BATCH, max_events=EVENTS, max_seconds=0.2)
        async def insert(events, sessions: list[AsyncSession], message_ids: list[str]) -> None:
            for event, session, message_id in zip(events, sessions, message_ids, strict=True):
                is_refused = event["number"] == 3 and not refused
                if is_refused:
                    refused.append(message_id)
                session.add(Effect(text=None if is_refused else str(event["number"])))

        publish(publisher)
        await work(consumer, lambda: consumer_is_idle(consumer))

    run(scenario)

    assert database.effects() == [str(number) for number in range(EVENTS)]
    assert refused == ["message-3"]


DYING = """
import os, signal, sys
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from integration.inbox.conftest import Effect
from melange import ExchangeMessageConsumer, QueueOptions, Worker
from melange.drivers.aws import AwsDriver
from melange.outbox import Inbox

url, moment = sys.argv[1:]
commits = []

@event.listens_for(Session, "after_commit")
def count(session):
    commits.append(session)
    if moment == "between commits" and len(commits) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

inbox = Inbox(async_sessionmaker(create_async_engine(url, pool_size=10)))
consumer = ExchangeMessageConsumer(
    "stock", "products", driver=AwsDriver(), deduplication=inbox,
    queue=QueueOptions(wait_seconds=1, visibility_timeout_seconds=2),
)

@consumer.batch_listener("Counted", max_events=5, max_seconds=5 if moment != "never" else 0.1)
async def insert(events, sessions):
    for one, session in zip(events, sessions, strict=True):
        session.add(Effect(text=str(one["number"])))
    if moment == "in the listener":
        os.kill(os.getpid(), signal.SIGKILL)

sys.exit(Worker(consumer, concurrency=5, grace_seconds=5).run())
"""


@pytest.mark.parametrize("moment", ["in the listener", "between commits"])
def test_after_a_crash_in_the_middle_each_event_is_there_once(
    sqlite_database, tmp_path, monkeypatch, moment
) -> None:
    program = tmp_path / "program.py"
    program.write_text(DYING)
    url = sqlite_database.url.replace("sqlite:", "sqlite+aiosqlite:")

    with Server() as server, AwsDriver(endpoint_url=server.url) as driver:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        driver.declare_queue("stock", driver.declare_topic("products"))
        publish(ExchangeMessagePublisher("products", driver))

        died = subprocess.run([sys.executable, program, url, moment], check=False, timeout=60).returncode
        after_crash = (len(sqlite_database.effects()), sqlite_database.marks())
        worker = subprocess.Popen([sys.executable, program, url, "never"])
        try:
            eventually(lambda: sqlite_database.marks() == EVENTS)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)

    assert died == -signal.SIGKILL
    assert after_crash[0] == after_crash[1] < EVENTS
    assert sqlite_database.effects() == [str(number) for number in range(EVENTS)]


def test_a_batch_needs_asynchronous_sessions(make_consumer) -> None:
    consumer = make_consumer(Inbox(sessionmaker(create_engine("sqlite://"))))

    with pytest.raises(ConfigurationError, match=r"insert needs an inbox of asynchronous sessions"):

        @consumer.batch_listener(BATCH, name="insert")
        def insert(events) -> None:
            raise AssertionError


def test_a_plain_function_does_not_get_asynchronous_sessions(make_consumer) -> None:
    consumer = make_consumer(Inbox(async_sessionmaker(create_async_engine("sqlite+aiosqlite://"))))

    with pytest.raises(ConfigurationError, match=r"make it `async def`"):

        @consumer.batch_listener(BATCH)
        def insert(events, sessions) -> None:
            raise AssertionError


def test_without_an_inbox_there_are_no_sessions(driver) -> None:
    consumer = ExchangeMessageConsumer("stock", driver=driver)

    with pytest.raises(ConfigurationError, match="session"):

        @consumer.batch_listener(BATCH)
        async def insert(events, sessions) -> None:
            raise AssertionError
