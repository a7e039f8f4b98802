"""Batch listeners: many events in one call, and each event is claimed, marked and settled by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from melange import (
    ConfigurationError,
    EventMessage,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    PartialFailure,
    QueueOptions,
    Reject,
    RetryPolicy,
    Worker,
)
from melange.drivers.memory import InMemoryDriver
from melange.messages import message_being_handled
from melange.testing import Harness
from waiting import eventually
from watched_driver import begin_stop


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    number: int


@pytest.fixture
def driver() -> InMemoryDriver:
    return InMemoryDriver()


@pytest.fixture
def consumer(driver) -> ExchangeMessageConsumer:
    return ExchangeMessageConsumer(
        "stock",
        "orders",
        driver=driver,
        retry=RetryPolicy(max_attempts=3, backoff=lambda _: 0),
        queue=QueueOptions(wait_seconds=1),
    )


@pytest.fixture
def work(consumer) -> Iterator[Callable[[int], Worker]]:
    with ExitStack() as stack:

        def start(concurrency: int) -> Worker:
            worker = Worker(consumer, concurrency=concurrency, grace_seconds=6)
            worker.start()
            stack.callback(worker.stop)
            return worker

        yield start


def publish(driver: InMemoryDriver, *numbers: int) -> list[str]:
    return ExchangeMessagePublisher("orders", driver).publish_batch(map(OrderPlaced, numbers))


def is_empty(driver: InMemoryDriver) -> bool:
    depth = driver.measure_queue(driver.get_queue("stock"))
    return depth.visible == depth.in_flight == 0


def test_events_are_gathered_up_to_the_most_of_a_batch(driver, consumer, work) -> None:
    batches = []
    consumer.batch_listener(OrderPlaced, max_events=5, max_seconds=60)(batches.append)
    publish(driver, *range(20))

    work(10)

    eventually(lambda: is_empty(driver))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    assert sorted(event.number for batch in batches for event in batch) == list(range(20))


def test_a_batch_does_not_wait_for_more_events_than_the_worker_runs_at_once(driver, consumer, work) -> None:
    batches = []
    consumer.batch_listener(OrderPlaced, max_events=100, max_seconds=60)(batches.append)
    publish(driver, *range(6))

    work(3)

    eventually(lambda: is_empty(driver))
    assert [len(batch) for batch in batches] == [3, 3]


def test_a_batch_runs_after_its_time_with_what_it_has(driver, consumer, work) -> None:
    batches = []
    consumer.batch_listener(OrderPlaced, max_events=100, max_seconds=0.05)(batches.append)
    publish(driver, 1, 2)

    work(10)

    eventually(lambda: is_empty(driver))
    assert sorted(event.number for batch in batches for event in batch) == [1, 2]


def test_asynchronous_functions_may_be_batch_listeners_and_know_message_ids(driver, consumer, work) -> None:
    calls = []

    @consumer.batch_listener(OrderPlaced, max_events=4, max_seconds=60)
    async def insert(events, message_ids):
        calls.append(dict(zip(message_ids, events, strict=True)))

    ids = publish(driver, *range(4))

    work(4)

    eventually(lambda: is_empty(driver))
    assert calls == [{one: OrderPlaced(number) for number, one in enumerate(ids)}]


def test_only_the_named_events_fail(driver, consumer, work) -> None:
    attempts: dict[int, int] = {}

    @consumer.batch_listener(OrderPlaced, max_events=4, max_seconds=0.05)
    def insert(events):
        errors = {}
        for place, event in enumerate(events):
            attempts[event.number] = attempts.get(event.number, 0) + 1
            if event.number == 1 and attempts[1] == 1:
                errors[place] = ValueError("no price")
            if event.number == 2:
                errors[place] = Reject("unknown")
        if errors:
            raise PartialFailure(errors)

    publish(driver, *range(4))

    work(4)

    eventually(lambda: is_empty(driver))
    assert attempts == {0: 1, 1: 2, 2: 1, 3: 1}
    (dead,) = driver.list_messages(driver.get_queue("stock-dlq"))
    assert '"number":2' in dead.body


@pytest.mark.parametrize(
    "error", [ConnectionError(), SystemExit(), PartialFailure({99: ValueError()})], ids=repr
)
def test_any_other_exception_fails_all_events(driver, consumer, work, error) -> None:
    runs = []

    @consumer.batch_listener(OrderPlaced, max_events=2, max_seconds=60)
    def insert(events):
        runs.append(len(events))
        if len(runs) == 1:
            raise error

    publish(driver, 1, 2)

    work(2)

    eventually(lambda: is_empty(driver))
    assert runs == [2, 2]


def test_an_event_that_was_finished_before_is_not_in_a_batch_again(driver, consumer, work) -> None:
    numbers = []
    consumer.batch_listener(OrderPlaced, max_events=4, max_seconds=0.05)(
        lambda events: numbers.extend(event.number for event in events)
    )
    publisher, event = ExchangeMessagePublisher("orders", driver), OrderPlaced(1)

    work(4)
    for _ in range(2):
        publisher.publish(event, message_id="one")
        eventually(lambda: numbers != [] and is_empty(driver))

    assert numbers == [1]


def test_a_group_of_a_fifo_queue_keeps_its_order(driver) -> None:
    consumer = ExchangeMessageConsumer(
        "stock.fifo", "orders.fifo", driver=driver, queue=QueueOptions(wait_seconds=1)
    )
    seen = []
    consumer.batch_listener(OrderPlaced, max_events=4, max_seconds=0.01)(seen.extend)
    publisher = ExchangeMessagePublisher("orders.fifo", driver)
    for number in range(12):
        publisher.publish(OrderPlaced(number), message_group_id=str(number % 2))
    worker = Worker(consumer, concurrency=4, grace_seconds=6)
    worker.start()

    eventually(lambda: len(seen) == 12)
    worker.stop()

    assert [event.number for event in seen if event.number % 2] == [1, 3, 5, 7, 9, 11]
    assert [event.number for event in seen if not event.number % 2] == [0, 2, 4, 6, 8, 10]


def test_a_stop_lets_a_batch_finish(driver, consumer, work) -> None:
    begun, may_end = threading.Event(), threading.Event()
    done = []

    @consumer.batch_listener(OrderPlaced, max_events=2, max_seconds=0.01)
    def insert(events):
        begun.set()
        may_end.wait(30)
        done.extend(events)

    publish(driver, 1)
    worker = work(2)
    assert begun.wait(30)

    begin_stop(worker)
    may_end.set()

    assert worker.stop(30)
    assert done == [OrderPlaced(1)]
    assert is_empty(driver)


def test_a_batch_is_handled_for_no_single_message(driver, consumer, work) -> None:
    handled = []
    consumer.batch_listener(OrderPlaced, max_events=1)(lambda events: handled.append(message_being_handled()))
    publish(driver, 1)

    work(1)

    eventually(lambda: is_empty(driver))
    assert handled == [None]


def test_the_harness_runs_batches_of_one_without_waiting() -> None:
    with Harness() as harness:
        consumer = ExchangeMessageConsumer("stock", "orders")

        @consumer.batch_listener(OrderPlaced, max_events=100, max_seconds=60)
        def insert(events):
            assert len(events) == 1

        for number in range(3):
            ExchangeMessagePublisher("orders").publish(OrderPlaced(number))
        harness.settle()

        assert len(harness.handled(insert)) == 3


@pytest.mark.parametrize("options", [{"max_events": 0}, {"max_events": True}, {"max_seconds": -1}], ids=repr)
def test_numbers_are_checked(consumer, options) -> None:
    with pytest.raises(ConfigurationError, match="max_"):
        consumer.batch_listener(OrderPlaced, **options)(print)


def test_a_function_that_asks_for_more_is_refused(consumer) -> None:
    with pytest.raises(ConfigurationError, match="asks for 'attempt'"):

        @consumer.batch_listener(OrderPlaced)
        def insert(events, attempt):
            pass


def test_without_a_worker_it_is_refused(consumer) -> None:
    consumer.batch_listener(OrderPlaced)(print)

    with pytest.raises(ConfigurationError, match="Worker"):
        consumer.consume_event()


@pytest.mark.parametrize("errors", [{"2": ValueError()}, {2: "no price"}, {True: ValueError()}], ids=repr)
def test_a_partial_failure_names_places_and_exceptions(errors) -> None:
    with pytest.raises(TypeError, match="dict of exceptions by places"):
        PartialFailure(errors)


@pytest.mark.parametrize("is_borrowed", [False, True], ids=["own loop", "loop of the application"])
def test_an_asynchronous_batch_is_cancelled_when_the_worker_stops(driver, consumer, is_borrowed) -> None:
    began, cancelled = threading.Event(), threading.Event()

    @consumer.batch_listener(OrderPlaced, max_events=2, max_seconds=60)
    async def hang(events):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    publish(driver, 1, 2)
    worker = Worker(consumer, concurrency=2, grace_seconds=0.5)

    async def work_on_this_loop() -> None:
        async with worker.lifespan():
            await asyncio.to_thread(began.wait)
        assert cancelled.is_set()

    if is_borrowed:
        asyncio.run(work_on_this_loop())
    else:
        with worker.running():
            began.wait()
        assert cancelled.is_set()


def test_an_asynchronous_batch_is_cancelled_when_all_its_events_are_over_their_time_limit(
    driver, consumer, work
) -> None:
    ends = []

    @consumer.batch_listener(OrderPlaced, max_events=2, max_seconds=60, timeout_seconds=1)
    async def hang(events):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append(len(events))
            raise

    publish(driver, 1, 2)

    work(2)

    eventually(lambda: is_empty(driver))
    assert ends == [2, 2, 2]


def test_plain_batches_that_hang_end_the_worker_because_threads_cannot_be_stopped(
    driver, consumer, work, caplog, monkeypatch
) -> None:
    monkeypatch.setattr("melange.consuming.polling.MOST_HANGING", 10)
    hanging = threading.Event()

    @consumer.batch_listener(OrderPlaced, max_events=1, timeout_seconds=0.01)
    def hang(events):
        hanging.wait()

    publish(driver, *range(20))

    worker = work(2)

    eventually(lambda: worker.has_ended)
    hanging.set()
    assert "its thread is at" in caplog.text
    assert "hanging.wait()" in caplog.text


def test_a_plain_batch_uses_no_attempts_when_no_thread_can_be_started(
    driver, consumer, work, monkeypatch
) -> None:
    seen = []
    consumer.batch_listener(OrderPlaced, max_events=2, max_seconds=0.01)(seen.extend)
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "melange-async":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    publish(driver, *range(5))

    work(2)

    eventually(lambda: is_empty(driver))
    assert sorted(event.number for event in seen) == list(range(5))
