"""Asynchronous listeners keep their event loop, so that their connections do."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from melange import ConfigurationError, ExchangeMessageConsumer, ExchangeMessagePublisher, Worker
from melange.outbox import Inbox, metadata


@pytest.fixture
def async_engine(tmp_path):
    return create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/stock.db", poolclass=NullPool)


async def create_tables(engine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)


def make_consumer(engine) -> tuple[ExchangeMessageConsumer, list[object]]:
    consumer = ExchangeMessageConsumer("stock", "deliveries", deduplication=Inbox(async_sessionmaker(engine)))
    loops: list[object] = []

    @consumer.listener("Delivered")
    async def add(event, session: AsyncSession) -> None:
        loops.append(asyncio.get_running_loop())

    return consumer, loops


def deliver() -> None:
    ExchangeMessagePublisher("deliveries").publish({"event_type_name": "Delivered"})


def test_each_settle_runs_them_on_the_same_loop(harness, async_engine) -> None:
    asyncio.run(create_tables(async_engine))
    _, loops = make_consumer(async_engine)

    for _ in range(2):
        deliver()
        harness.settle()

    assert len(set(loops)) == 1
    assert len(harness.handled("Delivered")) == 2


def test_each_settle_async_runs_them_on_the_same_loop(harness, async_engine) -> None:
    async def scenario() -> tuple[list[object], object]:
        await create_tables(async_engine)
        _, loops = make_consumer(async_engine)
        for _ in range(2):
            deliver()
            await harness.settle_async()
        await async_engine.dispose()
        return loops, asyncio.get_running_loop()

    loops, here = asyncio.run(scenario())

    assert loops == [here, here]


def test_in_the_lifespan_of_a_worker_they_run_on_its_loop(harness, async_engine) -> None:
    async def scenario() -> tuple[list[object], object]:
        await create_tables(async_engine)
        consumer, loops = make_consumer(async_engine)
        async with Worker(consumer, grace_seconds=2).lifespan():
            for _ in range(2):
                deliver()
                await harness.settle_async()
        await async_engine.dispose()
        return loops, asyncio.get_running_loop()

    loops, here = asyncio.run(scenario())

    assert loops == [here, here]
    harness.nothing_failed()


def test_the_loop_of_an_application_in_another_thread_is_used_too(harness, async_engine) -> None:
    has_started, may_end = threading.Event(), threading.Event()
    seen: list[list[object]] = []

    async def application() -> None:
        await create_tables(async_engine)
        consumer, loops = make_consumer(async_engine)
        seen.append([asyncio.get_running_loop()])
        seen.append(loops)
        async with Worker(consumer, grace_seconds=2).lifespan():
            has_started.set()
            while not may_end.is_set():
                await asyncio.sleep(0.005)
        await async_engine.dispose()

    thread = threading.Thread(target=asyncio.run, args=[application()])
    thread.start()
    assert has_started.wait(10)
    deliver()
    harness.settle()
    may_end.set()
    thread.join()

    assert seen[0] == seen[1]


def test_an_application_whose_loop_does_not_run_is_an_error_that_says_what_to_do(
    harness, async_engine
) -> None:
    with asyncio.Runner() as runner:
        runner.run(create_tables(async_engine))
        consumer, _ = make_consumer(async_engine)
        lifespan = Worker(consumer, grace_seconds=2).lifespan()
        runner.run(lifespan.__aenter__())
        deliver()

        with pytest.raises(ConfigurationError, match=r"await harness\.settle_async\(\)"):
            harness.settle()
        runner.run(lifespan.__aexit__(None, None, None))
