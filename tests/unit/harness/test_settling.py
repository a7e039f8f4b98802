"""Settling: everything that can happen now has happened, and nothing that is due later."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import pytest
import trio

from melange import (
    ConfigurationError,
    DriverManager,
    EventMessage,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    MelangeError,
    Middleware,
    QueueMessagePublisher,
    Reject,
    Retry,
    RetryPolicy,
    Worker,
)
from melange.drivers.memory import InMemoryDriver
from melange.testing import Harness


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    order_id: str


@dataclass(frozen=True)
class OrderPacked(EventMessage):
    order_id: str


def place(order_id: str = "1") -> None:
    ExchangeMessagePublisher("orders").publish(OrderPlaced(order_id))


def test_an_application_that_chooses_its_driver_at_start_up_keeps_the_harness(harness) -> None:
    chosen = DriverManager.instance().use_driver(driver_name="aws", region_name="eu-west-1")

    place()

    assert chosen is harness.driver
    assert harness.published(OrderPlaced) == [OrderPlaced("1")]


def test_hooks_that_the_application_gives_its_driver_run(harness) -> None:
    class Notes(Middleware):
        def __init__(self) -> None:
            self.noted: list[str] = []

        def around_publish(self, destination, messages, publish):
            self.noted.append(destination.name)
            return publish(messages)

        def around_listener(self, call, run):
            self.noted.append(call.listener_name)
            return run(call)

    notes = Notes()
    DriverManager.instance().use_driver(driver_name="aws", middleware=[notes])
    consumer = ExchangeMessageConsumer("warehouse", "orders")
    consumer.listener(OrderPlaced, name="pack")(lambda event: None)

    place()
    harness.settle()

    assert notes.noted == ["orders", "pack"]


def test_a_listener_that_always_fails_uses_up_its_attempts_in_time(harness) -> None:
    consumer = ExchangeMessageConsumer("warehouse", "orders")

    @consumer.listener(OrderPlaced)
    def pack(event):
        raise ConnectionError

    place()
    harness.advance(hours=2)

    assert len(harness.failed(pack)) == 25
    assert harness.dead_lettered(OrderPlaced) == [OrderPlaced("1")]


def test_a_consumer_that_could_not_be_created_does_not_disturb(harness) -> None:
    with pytest.raises(ConfigurationError):
        ExchangeMessageConsumer("warehouse.fifo", "orders")
    place()

    harness.settle()

    assert harness.published(OrderPlaced)


def test_afterwards_the_driver_from_before_is_in_use_again() -> None:
    manager = DriverManager()
    before = manager.use_driver(InMemoryDriver())

    with manager.overriding(InMemoryDriver()):
        manager.use_driver(InMemoryDriver())

    assert manager.get_driver() is before


def test_an_application_that_closes_its_driver_leaves_the_harness_open(harness) -> None:
    with DriverManager.instance().use_driver(driver_name="memory"):
        place()

    assert harness.published(OrderPlaced)


def test_events_that_follow_from_events_are_handled_too(harness) -> None:
    mailed = []
    warehouse = ExchangeMessageConsumer("warehouse", "orders")
    mails = ExchangeMessageConsumer("mails", "warehouse")

    @warehouse.listener(OrderPlaced)
    def pack(event):
        ExchangeMessagePublisher("warehouse").publish(OrderPacked(event.order_id))

    @mails.listener(OrderPacked)
    def mail(event):
        mailed.append(event)

    place()
    harness.settle()

    assert mailed == [OrderPacked("1")]
    harness.nothing_failed()


def test_a_retry_waits_until_it_is_due(harness) -> None:
    attempts = []
    consumer = ExchangeMessageConsumer("warehouse", "orders", retry=RetryPolicy(backoff=lambda _: 600))

    @consumer.listener(OrderPlaced)
    def pack(event, attempt):
        attempts.append(attempt)
        if attempt < 3:
            raise ConnectionError

    place()
    harness.settle()
    harness.settle()
    at_once = list(attempts)
    harness.advance(minutes=19)
    after_19_minutes = list(attempts)
    harness.advance(minutes=1)

    assert (at_once, after_19_minutes, attempts) == ([1], [1, 2], [1, 2, 3])


def test_a_retry_without_a_delay_happens_at_once(harness) -> None:
    consumer = ExchangeMessageConsumer("warehouse", "orders")

    @consumer.listener(OrderPlaced)
    def pack(event, attempt):
        if attempt == 1:
            raise Retry(delay_seconds=0)

    place()
    harness.settle()

    assert harness.handled(pack) == [OrderPlaced("1")]


def test_in_an_advance_each_thing_happens_at_its_own_time(harness) -> None:
    seen = []
    consumer = ExchangeMessageConsumer("warehouse", "orders")

    @consumer.listener(OrderPlaced)
    def pack(event):
        seen.append((event.order_id, harness.clock.monotonic()))

    sender = QueueMessagePublisher("warehouse")
    sender.send(OrderPlaced("late"), delay_seconds=900)
    sender.send(OrderPlaced("soon"), delay_seconds=60)
    harness.advance(hours=1)

    assert seen == [("soon", 60), ("late", 900)]
    assert harness.clock.monotonic() == 3600


def test_a_message_without_a_receiver_does_not_delay_the_others(harness) -> None:
    ExchangeMessageConsumer("without-listeners", "orders")
    consumer = ExchangeMessageConsumer("warehouse", "orders")
    times = []

    @consumer.listener(OrderPlaced)
    def pack(event):
        times.append(harness.clock.monotonic())
        raise Retry(20) if len(times) < 3 else Reject("enough")

    QueueMessagePublisher("without-listeners").send(OrderPlaced("2"), delay_seconds=10)
    place()
    harness.advance(hours=1)

    assert times == [0, 20, 40]


def test_an_infinite_loop_of_events_is_an_error_that_shows_it(harness, monkeypatch) -> None:
    monkeypatch.setattr("melange.testing.harness.MOST_STEPS", 50)
    consumer = ExchangeMessageConsumer("warehouse", "orders")
    consumer.listener(OrderPlaced)(lambda event: place(event.order_id))

    place()

    with pytest.raises(MelangeError, match=r"infinite loop of events: 50 deliveries(.|\n)*OrderPlaced"):
        harness.settle()


def test_a_worker_that_the_application_starts_handles_nothing_beside_the_harness(harness) -> None:
    threads = []
    consumer = ExchangeMessageConsumer("warehouse", "orders")
    consumer.listener(OrderPlaced)(lambda event: threads.append(threading.current_thread()))
    worker = Worker(consumer, grace_seconds=6)
    worker.start()

    place()
    harness.settle()

    assert threads == [threading.current_thread()]
    assert worker.stop()


def test_a_poll_of_the_test_itself_receives(harness) -> None:
    consumer = ExchangeMessageConsumer("warehouse", "orders")
    consumer.listener(OrderPlaced)(lambda event: None)
    place()

    assert consumer.consume_event() == 1
    assert consumer.consume_event() == 0


class TestAsynchronousListeners:
    def test_an_asynchronous_poll_of_the_test_itself_receives(self, harness) -> None:
        consumer = ExchangeMessageConsumer("warehouse", "orders")
        consumer.listener(OrderPlaced)(lambda event: None)

        async def test():
            await ExchangeMessagePublisher("orders").publish_async(OrderPlaced("1"))
            return [await consumer.consume_event_async(), await consumer.consume_event_async()]

        assert asyncio.run(test()) == [1, 0]

    def test_a_worker_in_the_loop_of_the_test_handles_nothing_beside_the_harness(self, harness) -> None:
        consumer = ExchangeMessageConsumer("warehouse", "orders")
        loops = []

        @consumer.listener(OrderPlaced)
        async def pack(event):
            loops.append(asyncio.get_running_loop())

        async def test():
            async with Worker(consumer, grace_seconds=6).lifespan():
                await ExchangeMessagePublisher("orders").publish_async(OrderPlaced("1"))
                harness.published(OrderPlaced)
                before = list(loops)
                await harness.settle_async()
            return before, asyncio.get_running_loop()

        before, loop = asyncio.run(test())

        assert (before, loops) == ([], [loop])

    def test_events_that_an_asynchronous_listener_publishes_have_it_as_their_cause(self, harness) -> None:
        consumer = ExchangeMessageConsumer("warehouse", "orders")

        @consumer.listener(OrderPlaced, name="pack")
        async def pack(event):
            await ExchangeMessagePublisher("warehouse").publish_async(OrderPacked(event.order_id))

        place()
        harness.settle()

        assert harness.what_happened().splitlines()[1:3] == [
            "└─ pack on warehouse: handled",
            "   └─ OrderPacked(order_id='1') to warehouse",
        ]

    def test_settle_runs_them_in_the_thread_of_the_test(self, harness) -> None:
        threads = []
        consumer = ExchangeMessageConsumer("warehouse", "orders")

        @consumer.listener(OrderPlaced)
        async def pack(event):
            await asyncio.sleep(0)
            threads.append(threading.current_thread())

        place()
        harness.settle()

        assert threads == [threading.current_thread()]

    def test_settle_async_runs_them_on_the_loop_of_the_test(self, harness) -> None:
        loops = []
        consumer = ExchangeMessageConsumer("warehouse", "orders", retry=RetryPolicy(backoff=lambda _: 60))

        @consumer.listener(OrderPlaced)
        async def pack(event, attempt):
            loops.append(asyncio.get_running_loop())
            if attempt == 1:
                raise ConnectionError

        async def test():
            place()
            await harness.settle_async()
            await harness.advance_async(minutes=1)
            return asyncio.get_running_loop()

        loop = asyncio.run(test())

        assert loops == [loop, loop]
        assert harness.handled(pack) == [OrderPlaced("1")]

    def test_settle_says_what_to_call_while_a_loop_runs(self, harness) -> None:
        async def test():
            harness.settle()

        with pytest.raises(ConfigurationError, match=r"await harness\.settle_async"):
            asyncio.run(test())

    def test_another_event_loop_than_asyncios_is_an_error(self, harness) -> None:
        with pytest.raises(ConfigurationError, match="trio is not supported"):
            trio.run(harness.settle_async)


def test_groups_of_a_fifo_queue_keep_their_order_after_a_failure(harness) -> None:
    seen = []
    consumer = ExchangeMessageConsumer(
        "warehouse.fifo", "orders.fifo", retry=RetryPolicy(backoff=lambda _: 60)
    )

    @consumer.listener(OrderPlaced)
    def pack(event, attempt):
        if event.order_id == "1" and attempt == 1:
            raise ConnectionError
        seen.append(event.order_id)

    publisher = ExchangeMessagePublisher("orders.fifo")
    for order_id, group in [("1", "Ada"), ("2", "Ada"), ("3", "Grace")]:
        publisher.publish(OrderPlaced(order_id), message_group_id=group)
    harness.settle()
    at_once = list(seen)
    harness.advance(minutes=1)

    assert (at_once, seen) == (["3"], ["3", "1", "2"])


@pytest.mark.parametrize("seed", range(3))
def test_disorder_follows_from_the_seed(seed) -> None:
    def run() -> list[str]:
        with Harness(seed=seed, duplicates=0.5, shuffle=True) as harness:
            consumer = ExchangeMessageConsumer("warehouse", "orders")
            seen = []
            consumer.listener(OrderPlaced)(lambda event: seen.append(event.order_id))
            for number in range(20):
                place(str(number))
            harness.settle()
            return seen

    first, second = run(), run()

    assert first == second
    assert first != sorted(first, key=int)
    assert sorted(first, key=int) == [str(number) for number in range(20)]


def test_a_rejected_message_is_settled(harness) -> None:
    consumer = ExchangeMessageConsumer("warehouse", "orders")

    @consumer.listener(OrderPlaced)
    def pack(event):
        raise Reject("out of stock")

    place()
    harness.settle()

    depth = harness.driver.measure_queue(consumer.queue)
    assert (depth.visible, depth.in_flight) == (0, 0)
    assert harness.dead_lettered(OrderPlaced) == [OrderPlaced("1")]


def test_a_failure_of_the_test_itself_in_a_listener_reaches_the_test(harness) -> None:
    consumer = ExchangeMessageConsumer("warehouse", "orders")

    @consumer.listener(OrderPlaced)
    def pack(event):
        pytest.fail("this order should not come")

    place()

    with pytest.raises(pytest.fail.Exception, match="should not come"):
        harness.settle()
    assert harness.driver.measure_queue(consumer.queue).visible == 1


def test_the_middleware_of_the_driver_from_before_applies() -> None:
    seen: list[str] = []

    class Watching(Middleware):
        def around_listener(self, call, run):
            seen.append(call.event_type_name)
            return run(call)

    before = InMemoryDriver()
    before.middleware = [Watching()]

    with DriverManager.instance().overriding(before), Harness() as harness:
        consumer = ExchangeMessageConsumer("mails", "orders")
        consumer.listener("OrderPlaced")(lambda event: None)
        ExchangeMessagePublisher("orders").publish({"event_type_name": "OrderPlaced"})
        harness.settle()

    assert seen == ["OrderPlaced"]


def test_the_delays_of_retries_follow_from_the_seed() -> None:
    def history(seed: int) -> str:
        with Harness(seed=seed) as harness:
            consumer = ExchangeMessageConsumer("mails", "orders")

            @consumer.listener("OrderPlaced", name="mail")
            def mail(event):
                raise ConnectionError("unavailable")

            ExchangeMessagePublisher("orders").publish({"event_type_name": "OrderPlaced"})
            harness.settle()
            return harness.what_happened()

    first, again, other = history(7), history(7), history(8)

    assert first == again != other
