"""Listeners that hang: limits of one run, what the worker says of them, and what a stop does to them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest

from melange import (
    ConfigurationError,
    ExchangeListener,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    MemoryDeduplicationStore,
    Middleware,
    QueueOptions,
    RetryPolicy,
    Worker,
)
from melange.drivers.memory import InMemoryDriver
from melange.testing import ManualClock
from waiting import eventually
from watched_driver import left_in

EVENT = {"event_type_name": "ProductAdded"}
DEADLINE_SECONDS = 30


@pytest.fixture
def gate():
    """What hanging listeners wait for; opened at the end."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def consumer_of():
    def make(driver, **options) -> ExchangeMessageConsumer:
        queue = QueueOptions(wait_seconds=0, **options.pop("queue", {}))
        return ExchangeMessageConsumer(
            "stock",
            "products",
            driver=driver,
            queue=queue,
            retry=RetryPolicy(backoff=lambda attempts: 0),
            deduplication=MemoryDeduplicationStore(),
            **options,
        )

    return make


@pytest.fixture
def start():
    workers: list[Worker] = []

    def start(consumer, **options) -> Worker:
        workers.append(Worker(consumer, **{"grace_seconds": 5, **options}))
        workers[-1].start()
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop(DEADLINE_SECONDS)


def publish(driver, *numbers):
    ExchangeMessagePublisher("products", driver).publish_batch(
        [{**EVENT, "number": number} for number in numbers]
    )


# --- plain listeners -------------------------------------------------------------------------------


def test_a_plain_listener_that_hangs_is_given_up_and_its_slot_works_on(consumer_of, start, gate, caplog):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, timeout_seconds=1)
    attempts, returned = [], threading.Event()

    @consumer.listener(name="ship")
    def ship_slowly(event, attempt):
        attempts.append((event["number"], attempt))
        if (event["number"], attempt) == (0, 1):
            gate.wait(DEADLINE_SECONDS)
            returned.set()

    publish(driver, 0, 1)
    worker = start(consumer, concurrency=1)
    eventually(lambda: left_in(driver) == 0)

    assert sorted(attempts) == [(0, 1), (0, 2), (1, 1)]
    assert worker.health().queues[0].timed_out == 1
    (log,) = [one.getMessage() for one in caplog.records if one.name == "melange.consuming.time_limit"]
    assert "listener ship runs for more than 1 s" in log
    assert "in ship_slowly" in log
    gate.set()
    assert returned.wait(DEADLINE_SECONDS)


def test_a_run_that_was_given_up_and_returns_late_marks_nothing(consumer_of, gate):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, timeout_seconds=1)
    attempts, returned = [], threading.Event()

    @consumer.listener()
    def hang_at_first(event, attempt):
        attempts.append(attempt)
        if attempt == 1:
            gate.wait(DEADLINE_SECONDS)
            returned.set()

    publish(driver, 0)
    consumer.consume_event()
    gate.set()
    assert returned.wait(DEADLINE_SECONDS)
    eventually(consumer.consume_event)

    assert attempts == [1, 2]
    assert left_in(driver) == 0


def test_a_limited_listener_keeps_its_thread_from_one_run_to_the_next(consumer_of):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, timeout_seconds=DEADLINE_SECONDS)
    threads = set()
    consumer.listener(name="note")(lambda event: threads.add(threading.get_ident()))
    publish(driver, *range(5))

    consumer.consume_event()

    assert len(threads) == 1
    assert threads != {threading.get_ident()}


@pytest.mark.parametrize("how", ["attribute", "keyword"])
def test_a_listener_may_have_a_limit_of_its_own(consumer_of, gate, how):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, timeout_seconds=DEADLINE_SECONDS)
    attempts = []

    def hang_at_first(event, attempt):
        attempts.append(attempt)
        if attempt == 1:
            gate.wait(DEADLINE_SECONDS)

    class Hangs(ExchangeListener):
        timeout_seconds = 1

        def process(self, event, attempt):
            hang_at_first(event, attempt)

    if how == "attribute":
        consumer.subscribe(Hangs())
    else:
        consumer.listener(timeout_seconds=1)(hang_at_first)
    publish(driver, 0)
    consumer.consume_event()
    eventually(consumer.consume_event)

    assert attempts == [1, 2]
    assert left_in(driver) == 0


@pytest.mark.parametrize("timeout_seconds", [0, -1, float("inf"), float("nan"), "1", True])
def test_a_limit_out_of_bounds_is_refused(consumer_of, timeout_seconds):
    with pytest.raises(ConfigurationError, match="timeout_seconds must be above 0"):
        consumer_of(InMemoryDriver(), timeout_seconds=timeout_seconds)
    with pytest.raises(ConfigurationError, match="timeout_seconds must be above 0"):
        consumer_of(InMemoryDriver()).listener(timeout_seconds=timeout_seconds)(lambda event: None)


# --- asynchronous listeners ------------------------------------------------------------------------


def test_an_asynchronous_listener_that_hangs_is_cancelled_and_cleans_up(consumer_of, start):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, timeout_seconds=1)
    attempts, cleaned_up = [], []

    @consumer.listener(name="ship")
    async def ship(event, attempt):
        attempts.append(attempt)
        try:
            if attempt == 1:
                await asyncio.Event().wait()
        finally:
            cleaned_up.append(attempt)

    publish(driver, 0)
    worker = start(consumer, concurrency=1)
    eventually(lambda: left_in(driver) == 0)

    assert attempts == cleaned_up == [1, 2]
    assert worker.health().queues[0].timed_out == 1


def test_an_asynchronous_listener_that_ignores_its_cancellation_is_given_up(
    consumer_of, start, monkeypatch, caplog
):
    monkeypatch.setattr("melange.consuming.event_loop.CANCELLING_SECONDS", 0.2)
    driver = InMemoryDriver()
    consumer = consumer_of(driver, timeout_seconds=1)
    attempts = []
    released = asyncio.Event()

    @consumer.listener(name="ship")
    async def ship(event, attempt):
        attempts.append(attempt)
        while attempt == 1 and not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    publish(driver, 0)
    worker = start(consumer, concurrency=1)
    eventually(lambda: left_in(driver) == 0)

    assert attempts == [1, 2]
    assert worker.health().queues[0].timed_out == 1
    assert "listener ship ignores its cancellation" in caplog.text
    released.set()


@pytest.mark.parametrize("error", [TimeoutError, asyncio.CancelledError])
def test_an_end_of_the_listeners_own_is_not_counted_as_its_limit(consumer_of, start, error):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, timeout_seconds=DEADLINE_SECONDS)

    @consumer.listener()
    async def ship(event, attempt):
        if attempt == 1:
            raise error("the carrier does not answer")

    publish(driver, 0)
    worker = start(consumer)
    eventually(lambda: left_in(driver) == 0)

    assert worker.health().queues[0].timed_out == 0


def test_what_is_at_work_when_a_worker_stops_is_cancelled_and_no_threads_are_left(consumer_of):
    driver = InMemoryDriver()
    before = set(threading.enumerate())
    counts: Counter[str] = Counter()
    publish_to = consumer_of(driver)  # the queue is there before the event
    assert publish_to.queue.name == "stock"
    publish(driver, 0)

    for _ in range(5):
        consumer = consumer_of(driver, queue={"visibility_timeout_seconds": 60})
        started = threading.Event()

        @consumer.listener(name="ship")
        async def ship(event, started=started):
            counts["begun"] += 1
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                counts["cleaned up"] += 1

        worker = Worker(consumer, grace_seconds=0.2)
        worker.start()
        assert started.wait(DEADLINE_SECONDS)
        assert worker.stop(DEADLINE_SECONDS) is False  # it was not finished
        eventually(lambda: driver.measure_queue(driver.get_queue("stock")).visible == 1)

    assert counts == {"begun": 5, "cleaned up": 5}
    eventually(lambda: set(threading.enumerate()) <= before)


# --- health ----------------------------------------------------------------------------------------


def test_a_worker_with_listeners_that_all_hang_is_not_ready(consumer_of, start, gate):
    clock = ManualClock()
    driver = InMemoryDriver(clock=clock)
    consumer = consumer_of(driver, queue={"visibility_timeout_seconds": 3_600})
    begun = threading.Event()

    @consumer.listener()
    def hang(event):
        begun.set()
        gate.wait(DEADLINE_SECONDS)

    publish(driver, 0)
    worker = start(consumer, concurrency=1)
    assert begun.wait(DEADLINE_SECONDS)
    eventually(lambda: worker.health().ready)
    clock.advance(89)
    assert worker.health().ready
    clock.advance(2)

    health = worker.health()
    assert not health.ready
    assert health.queues[0].seconds_since_poll == 91
    assert health.queues[0].in_flight == 1
    assert health.longest_run_seconds > 0
    gate.set()
    eventually(lambda: worker.health().ready)


def test_one_listener_that_hangs_leaves_the_worker_ready(consumer_of, start, gate):
    clock = ManualClock()
    driver = InMemoryDriver(clock=clock)
    consumer = consumer_of(driver, queue={"visibility_timeout_seconds": 3_600})
    begun = threading.Event()

    @consumer.listener()
    def hang(event):
        begun.set()
        gate.wait(DEADLINE_SECONDS)

    publish(driver, 0)
    worker = start(consumer, concurrency=2)
    assert begun.wait(DEADLINE_SECONDS)
    clock.advance(91)

    eventually(lambda: worker.health().ready)


class LeavesOnItsSecondPoll(Middleware):
    polls = 0

    def around_poll(self, queue, poll):
        self.polls += 1
        received = poll()
        if self.polls == 2:
            raise SystemExit(3)
        return received


def test_system_exit_out_of_a_hook_around_a_poll_ends_the_worker_with_1(consumer_of):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, middleware=[LeavesOnItsSecondPoll()])
    consumer.listener(name="ship")(lambda event: None)
    worker = Worker(consumer, grace_seconds=5)
    exit_codes: list[int] = []
    running = threading.Thread(target=lambda: exit_codes.append(worker.run()), daemon=True)

    running.start()
    running.join(DEADLINE_SECONDS)

    assert exit_codes == [1]
    assert worker.has_ended
    assert not worker.health().ready


def test_the_threads_of_limited_runs_end_with_their_worker(consumer_of, start):
    before = set(threading.enumerate())

    def limited() -> set[threading.Thread]:
        return {thread for thread in set(threading.enumerate()) - before if thread.name == "melange-limited"}

    with InMemoryDriver() as driver:
        consumer = consumer_of(driver, timeout_seconds=30)
        consumer.listener("ProductAdded", name="quick")(lambda event: None)
        worker = start(consumer, concurrency=3)
        publish(driver, *range(9))
        eventually(lambda: left_in(driver) == 0)
        assert limited()

        assert worker.stop(DEADLINE_SECONDS)

        eventually(lambda: not limited())


# --- listeners that hang for good ------------------------------------------------------------------


def test_a_worker_with_too_many_hanging_threads_ends_with_1(consumer_of, gate, monkeypatch, caplog):
    monkeypatch.setattr("melange.consuming.polling.MOST_HANGING", 2)
    driver = InMemoryDriver()
    consumer = consumer_of(driver, timeout_seconds=0.05)
    consumer.listener(name="ship")(lambda event: gate.wait(DEADLINE_SECONDS))
    publish(driver, *range(3))
    worker = Worker(consumer, concurrency=2, grace_seconds=5)

    worker.start()
    eventually(lambda: worker.has_ended)

    assert worker.stop() is False
    assert not worker.health().ready
    assert "runs of queue stock hang beyond their time limit" in caplog.text
    gate.set()


def test_listeners_that_hang_many_times_stop_nobody_else(consumer_of, start, gate):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, timeout_seconds=0.1)
    finished = []

    @consumer.listener("ProductAdded", name="ship")
    def ship(event):
        if event["number"] % 2:
            gate.wait(DEADLINE_SECONDS)
        finished.append(event["number"])

    worker = start(consumer, concurrency=2)
    publish(driver, *range(60))

    eventually(lambda: set(finished) == set(range(0, 60, 2)))  # on a busy machine some take two runs
    eventually(lambda: consumer.time_limits.hanging > 20)
    assert worker.health().ready
    gate.set()


def test_threads_that_were_given_up_and_have_ended_do_not_count(consumer_of, start, gate, monkeypatch):
    monkeypatch.setattr("melange.consuming.polling.MOST_HANGING", 2)
    driver = InMemoryDriver()
    consumer = consumer_of(driver, timeout_seconds=0.5)
    runs = []

    @consumer.listener(name="ship")
    def ship(event, attempt):
        runs.append(attempt)
        if attempt == 1:
            eventually(lambda: consumer.time_limits.hanging)

    worker = start(consumer, concurrency=1)
    for number in range(4):
        publish(driver, number)
        eventually(lambda: left_in(driver) == 0)
        eventually(lambda: not consumer.time_limits.hanging)

    assert worker.health().ready
    assert runs.count(1) == 4
