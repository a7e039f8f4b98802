"""Outboxes take part: those that are written to are found, and relayed by ``settle``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from melange import ConfigurationError, DriverManager, EventMessage, ExchangeMessageConsumer
from melange.cqrs import Command, CommandBus
from melange.middleware import Middleware
from melange.outbox import Outbox, OutboxRelay, metadata
from melange.testing import Harness
from melange.testing.harness_outboxes import PAUSE_SECONDS


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    order_id: str


@dataclass(frozen=True)
class PlaceOrder(Command):
    order_id: str


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/orders.db")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def place(engine, order_id: str = "1") -> None:
    with Session(engine) as session, session.begin():
        Outbox(session).publish("orders", OrderPlaced(order_id))


def test_what_was_committed_is_relayed_and_handled(harness, engine) -> None:
    consumer = ExchangeMessageConsumer("warehouse", "orders")
    consumer.listener(OrderPlaced)(lambda event: None)

    place(engine)
    harness.nothing_published()
    harness.settle()

    assert harness.published(OrderPlaced) == harness.handled(OrderPlaced) == [OrderPlaced("1")]


def test_what_was_rolled_back_is_not(harness, engine) -> None:
    with Session(engine) as session:
        Outbox(session).publish("orders", OrderPlaced("1"))
        session.flush()
        session.rollback()

    harness.settle()

    harness.nothing_published()


def test_an_outbox_that_was_written_to_before_is_named(engine) -> None:
    place(engine)

    with Harness() as harness:
        harness.relay(engine)
        harness.settle()

        assert harness.published(OrderPlaced)


def test_a_listener_that_writes_to_an_outbox_is_the_cause_of_its_messages(harness, engine) -> None:
    commands = CommandBus()
    commands.register(lambda command: place(engine, command.order_id), PlaceOrder)
    consumer = ExchangeMessageConsumer("again", "orders")

    @consumer.listener(OrderPlaced)
    def order_again(event):
        if event.order_id == "1":
            place(engine, "2")

    commands.send(PlaceOrder("1"))
    harness.settle()

    lines = harness.what_happened().splitlines()
    assert [line.strip("│├└─ ").partition(" on ")[0] for line in lines] == [
        "PlaceOrder(order_id='1') (command)",
        "OrderPlaced(order_id='1') to orders",
        lines[2].strip("│├└─ ").partition(" on ")[0],
        "OrderPlaced(order_id='2') to orders",
        lines[4].strip("│├└─ ").partition(" on ")[0],
    ]
    assert "order_again" in lines[2]
    assert lines[3].startswith("      └─")


def test_an_outbox_whose_broker_fails_is_relayed_again_later(harness, engine) -> None:
    place(engine)
    harness.faults.next_publish_fails()

    harness.settle()
    harness.nothing_published()
    harness.advance(minutes=1)

    assert harness.published(OrderPlaced) == [OrderPlaced("1")]


def test_an_event_that_is_due_while_the_broker_fails_comes_soon_after(harness, engine) -> None:
    consumer = ExchangeMessageConsumer("shipping", "orders")
    times = []
    consumer.listener("OrderPlaced", name="ship")(lambda event: times.append(harness.clock.monotonic()))
    with Session(engine) as session, session.begin():
        soon = harness.clock.now() + timedelta(seconds=0.5)
        Outbox(session).publish("orders", {}, "OrderPlaced", deliver_at=soon)
    place(engine)
    harness.faults.next_publish_fails()

    harness.advance(hours=1)

    assert times == [PAUSE_SECONDS, PAUSE_SECONDS]


def test_a_scheduled_event_comes_when_time_has_passed(harness, engine) -> None:
    consumer = ExchangeMessageConsumer("shipping", "orders")
    times = []
    consumer.listener("OrderPlaced", name="ship")(lambda event: times.append(harness.clock.now()))
    with Session(engine) as session, session.begin():
        Outbox(session).publish(
            "orders", {}, "OrderPlaced", deliver_at=harness.clock.now() + timedelta(days=2)
        )
    due_at = harness.clock.now() + timedelta(days=2)

    harness.settle()
    early = list(times)
    harness.advance(days=3)

    assert (early, times) == ([], [due_at])


async def place_async(asynchronous) -> None:
    async with AsyncSession(asynchronous) as session, session.begin():
        Outbox(session).publish("orders", OrderPlaced("1"))


def test_an_outbox_of_an_asynchronous_engine_is_found(harness, engine) -> None:
    asynchronous = create_async_engine(f"sqlite+aiosqlite:///{engine.url.database}")

    async def place_one() -> None:
        await place_async(asynchronous)
        await asynchronous.dispose()

    asyncio.run(place_one())
    harness.settle()

    assert harness.published(OrderPlaced)


def test_an_outbox_in_the_memory_of_an_asynchronous_engine_needs_a_synchronous_one(harness) -> None:
    asynchronous = create_async_engine("sqlite+aiosqlite://")

    async def place_one() -> None:
        async with asynchronous.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await place_async(asynchronous)
        await asynchronous.dispose()

    asyncio.run(place_one())

    with pytest.raises(ConfigurationError, match=r"harness\.relay\(create_engine"):
        harness.settle()


def test_a_relay_that_the_application_starts_waits_for_settle(harness, engine) -> None:
    relay = OutboxRelay(engine, poll_seconds=0.01)
    relay.start()
    place(engine)

    harness.nothing_published()
    harness.settle()

    assert harness.published(OrderPlaced) == [OrderPlaced("1")]
    assert relay.stop()


def test_a_relay_is_held_back_whatever_middleware_the_application_chooses(harness, engine) -> None:
    driver = DriverManager.instance().use_driver(driver_name="memory", middleware=[Middleware()])
    relay = OutboxRelay(engine, driver, poll_seconds=0.01)

    relay.start()
    place(engine)
    harness.settle()
    relay.stop()

    assert harness.published(OrderPlaced) == [OrderPlaced("1")]
