"""A worker on a system that cannot start threads, or not as many as it wants."""

import asyncio
import sys
import threading

import pytest

from melange import QueueOptions, RetryPolicy, Worker
from melange.consuming import threads
from waiting import eventually
from watched_driver import WatchedDriver, consumer_of, left_in, send, worker_on

DEADLINE_SECONDS = 30


@pytest.fixture
def refuse_threads(monkeypatch):
    """Refuse to start threads of a name, beyond the first ones; returns the set of names refused."""
    start_thread = threading.Thread.start
    refused = set()

    def refuse(prefix, after=0):
        started = []

        def start(thread):
            if thread.name.startswith(prefix):
                if len(started) >= after:
                    refused.add(thread.name)
                    raise RuntimeError("can't start new thread")
                started.append(thread)
            start_thread(thread)

        monkeypatch.setattr(threading.Thread, "start", start)
        return refused

    yield refuse
    monkeypatch.setattr(threading.Thread, "start", start_thread)


@pytest.mark.parametrize("prefix", ["melange-work-", "melange-poll", "melange-acknowledge"])
def test_a_worker_without_its_threads_receives_nothing_and_ends_with_1(refuse_threads, prefix, caplog):
    driver = WatchedDriver()
    consumer = consumer_of(driver)
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 100)
    refuse_threads(prefix)

    assert Worker(consumer, grace_seconds=5).run() == 1

    assert driver.receives == []
    assert driver.measure_queue(consumer.queue).visible == 100
    assert "cannot start its threads" in caplog.text


def test_asynchronous_listeners_without_an_event_loop_receive_nothing(refuse_threads):
    driver = WatchedDriver()
    consumer = consumer_of(driver)

    @consumer.listener(name="listener")
    async def listen(event):
        await asyncio.sleep(0)

    send(driver, consumer.queue, 10)
    refuse_threads("melange-event-loop")

    assert Worker(consumer, grace_seconds=5).run() == 1
    assert driver.receives == []


def test_asynchronous_listeners_added_later_come_back_while_there_is_no_event_loop(refuse_threads):
    driver = WatchedDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1), retry=RetryPolicy(backoff=lambda _: 0))
    consumer.listener(name="plain")(plain := lambda event: None)
    seen = []
    refused = refuse_threads("melange-event-loop")
    worker = worker_on(consumer)
    worker.start()
    eventually(lambda: worker.health().ready)
    consumer.unsubscribe(plain)

    @consumer.listener(name="asynchronous")
    async def listen(event):
        seen.append(event["number"])

    send(driver, consumer.queue, 1)
    eventually(lambda: refused)
    refused.clear()
    eventually(lambda: refused)  # it came back
    refuse_threads("no thread")

    eventually(lambda: seen == [0])
    eventually(lambda: driver.in_flight == 0)
    assert worker.stop(DEADLINE_SECONDS)


def test_without_a_thread_for_one_queue_what_the_others_received_is_finished(refuse_threads):
    driver = WatchedDriver()
    consumers = [consumer_of(driver, name) for name in ("first", "second")]
    seen = []
    for consumer in consumers:
        consumer.listener(name="listener")(lambda event: seen.append(event["number"]))
    send(driver, consumers[0].queue, 50)
    refuse_threads("melange-poll-second")

    assert Worker(*consumers, grace_seconds=5).run() == 1

    depth = driver.measure_queue(consumers[0].queue)
    assert (depth.in_flight, depth.visible) == (0, 50 - len(seen))
    assert driver.in_flight == 0


def test_a_worker_with_some_threads_goes_on_with_those(refuse_threads, caplog):
    driver = WatchedDriver()
    consumer = consumer_of(driver)
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 300)
    refuse_threads("melange-work-", after=2)
    worker = worker_on(consumer, concurrency=10)
    worker.start()

    eventually(lambda: left_in(driver) == 0)
    assert worker.stop(DEADLINE_SECONDS)
    assert max(len(deliveries) for _, _, deliveries in driver.receives) <= 10
    warnings = [record for record in caplog.records if "working with 2 threads of 10" in record.getMessage()]
    assert len(warnings) == 1


def test_a_worker_asks_for_its_threads_again_after_a_while(refuse_threads, monkeypatch):
    monkeypatch.setattr(threads, "NO_THREADS_PAUSE_SECONDS", 0.05)
    driver = WatchedDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=0))
    at_work, first_gate, gate = threading.Semaphore(0), threading.Event(), threading.Event()

    @consumer.listener(name="listener")
    def wait(event):
        at_work.release()
        (gate if event["number"] else first_gate).wait(DEADLINE_SECONDS)

    refused = refuse_threads("melange-work-", after=1)
    worker = worker_on(consumer, concurrency=2)
    worker.start()
    send(driver, consumer.queue, 2)
    assert at_work.acquire(timeout=DEADLINE_SECONDS)
    eventually(lambda: refused)
    refuse_threads("no thread has this name")
    threading.Event().wait(0.1)
    first_gate.set()
    send(driver, consumer.queue, 2, first=2)

    for _ in range(2):  # at once: the gate is shut
        assert at_work.acquire(timeout=DEADLINE_SECONDS)
    gate.set()
    assert worker.stop(DEADLINE_SECONDS)


@pytest.mark.parametrize(
    "prefix",
    [
        "melange-timers",
        "melange-leases",
        "melange-renewal",
        "melange-isolation",
        "melange-alone",
        "melange-limited",
    ],
)
@pytest.mark.parametrize("queue_name", ["stock", "stock.fifo"])
def test_what_cannot_have_a_thread_of_its_own_is_done_without(refuse_threads, prefix, queue_name):
    driver = WatchedDriver()
    consumer = consumer_of(
        driver,
        queue_name,
        queue=QueueOptions(wait_seconds=0),
        retry=RetryPolicy(max_attempts=2, backoff=lambda attempts: 0),
        timeout_seconds=20,
    )
    seen = []

    @consumer.listener(name="listener")
    def fail_at_first(event):
        seen.append(event["number"])
        if seen.count(event["number"]) == 1:
            raise ValueError

    send(driver, consumer.queue, 5, lambda number: f"{number}")
    for _ in range(2):
        driver.defer(driver.receive(consumer.queue, 10, 0), 0)
    refuse_threads(prefix)
    worker = worker_on(consumer, concurrency=2)
    worker.start()

    eventually(lambda: left_in(driver, queue_name) == 0)
    assert sorted(seen) == sorted([*range(5)] * 2)
    assert left_in(driver, consumer.queue.dead_letter_queue.name) == 0
    assert worker.stop(DEADLINE_SECONDS)


def test_a_stop_without_threads_to_be_had_releases_everything(refuse_threads):
    driver = WatchedDriver(is_patient=True)
    consumer = consumer_of(driver, "stock.fifo", queue=QueueOptions(wait_seconds=1))
    begun = threading.Event()

    @consumer.listener(name="listener")
    def fail(event):
        begun.set()
        raise ValueError

    send(driver, consumer.queue, 3, lambda number: "a")
    worker = worker_on(consumer, concurrency=2, grace_seconds=7)
    worker.start()
    assert begun.wait(DEADLINE_SECONDS)
    refuse_threads("melange-")

    assert worker.stop(DEADLINE_SECONDS)
    assert driver.in_flight == 0


@pytest.mark.parametrize(("has_lock", "warnings"), [(True, 0), (False, 1)])
def test_a_worker_warns_on_a_build_without_the_interpreter_lock(monkeypatch, caplog, has_lock, warnings):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: has_lock, raising=False)
    driver = WatchedDriver()
    consumer = consumer_of(driver)
    consumer.listener(name="listener")(lambda event: None)
    worker = Worker(consumer, grace_seconds=5)

    worker.start()

    assert worker.stop(DEADLINE_SECONDS)
    assert caplog.text.count("without its global interpreter lock") == warnings


def test_the_first_deliveries_of_a_worker_begin_at_once(monkeypatch):
    monkeypatch.setattr(threads, "STUCK_SECONDS", 3600)  # nobody looks for a thread that is slow
    driver = WatchedDriver()
    consumer = consumer_of(driver)
    all_began = threading.Barrier(5)
    consumer.listener(name="listener")(lambda event: all_began.wait(DEADLINE_SECONDS))
    send(driver, consumer.queue, 4)

    worker = worker_on(consumer, concurrency=4)
    worker.start()
    all_began.wait(DEADLINE_SECONDS)
    worker.stop()

    assert left_in(driver) == 0
