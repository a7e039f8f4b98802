"""A broker behind a slow network: polls and acknowledgements wait for it side by side, as long as the queue is full."""

import logging
import threading
from contextlib import contextmanager

import pytest

from melange import DriverConnectionError, Middleware, QueueOptions
from melange.flow import RateLimit
from waiting import eventually
from watched_driver import WatchedDriver, consumer_of, left_in, send

DEADLINE_SECONDS = 30
NETWORK_SECONDS = 0.02


class DistantDriver(WatchedDriver):
    """Answers each call later, and counts how many are open at a time."""

    def __init__(self):
        super().__init__()
        self.most_open = {"receive": 0, "acknowledge": 0}
        self.open = {"receive": 0, "acknowledge": 0}
        self._counting = threading.Lock()

    def receive(self, queue, limit, wait_seconds, *, visibility_timeout_seconds=30):
        with self._open("receive"):
            return super().receive(
                queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
            )

    def acknowledge(self, deliveries):
        with self._open("acknowledge"):
            return super().acknowledge(deliveries)

    @contextmanager
    def _open(self, call):
        with self._counting:
            self.open[call] += 1
            self.most_open[call] = max(self.most_open[call], self.open[call])
        try:
            threading.Event().wait(NETWORK_SECONDS)
            yield
        finally:
            with self._counting:
                self.open[call] -= 1


def test_a_full_queue_is_emptied_with_several_calls_at_a_time(running):
    driver = DistantDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    seen = []
    consumer.listener(name="listener")(lambda event: seen.append(event["number"]))
    send(driver, consumer.queue, 1_000)

    worker = running(consumer, concurrency=10)
    eventually(lambda: left_in(driver) == 0)

    (queue,) = worker.health().queues
    assert sorted(seen) == list(range(1_000))
    assert driver.most_open["receive"] > 2
    assert driver.most_open["acknowledge"] > 2
    assert driver.most_in_flight <= queue.limit


def test_an_empty_queue_is_polled_once_at_a_time(running):
    driver = DistantDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 200)
    running(consumer)
    eventually(lambda: left_in(driver) == 0 and driver.open["receive"] == 1)
    driver.most_open["receive"] = 0

    send(driver, consumer.queue, 5, first=200)
    eventually(lambda: left_in(driver) == 0)

    assert driver.most_open["receive"] == 1


@pytest.mark.parametrize(
    ("queue_name", "options"),
    [
        ("stock.fifo", {}),
        ("stock", {"queue": QueueOptions(wait_seconds=1, ordered_by="number")}),
        ("stock", {"flow": [RateLimit(10_000)]}),
    ],
    ids=["FIFO", "ordered_by", "a limit"],
)
def test_one_poll_at_a_time_keeps_an_order_and_a_limit(running, queue_name, options):
    driver = DistantDriver()
    consumer = consumer_of(driver, queue_name, **options)
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 200, lambda number: f"group-{number}")

    running(consumer)
    eventually(lambda: left_in(driver, queue_name) < 100)

    assert driver.most_open["receive"] == 1


def test_a_slow_listener_has_no_more_polls_than_its_threads_need(running):
    driver = DistantDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    consumer.listener(name="listener")(lambda event: threading.Event().wait(0.5))
    send(driver, consumer.queue, 100)

    running(consumer, concurrency=4)
    eventually(lambda: left_in(driver) < 90)

    assert driver.most_open["receive"] == 1
    assert driver.most_in_flight <= 8


class FailsBeside(Middleware):
    """Raises in polls beside those of the queue's own thread: once, or in all of them."""

    def __init__(self, error, *, once=True):
        self.error = error
        self.once = once
        self.own_thread = None
        self.failures = self.successes = 0

    def around_poll(self, queue, poll):
        self.own_thread = self.own_thread or threading.current_thread()
        if threading.current_thread() is not self.own_thread and not (self.once and self.failures):
            self.failures += 1
            raise self.error
        self.successes += 1
        return poll()


def test_a_failure_of_one_poll_does_not_end_the_others(running, caplog):
    driver = DistantDriver()
    hook = FailsBeside(DriverConnectionError("out of reach"))
    consumer = consumer_of(driver, middleware=[hook], queue=QueueOptions(wait_seconds=1))
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 1_000)

    with caplog.at_level(logging.WARNING, "melange"):
        worker = running(consumer)
        eventually(lambda: left_in(driver) == 0)

    assert hook.failures
    assert "polling queue stock failed" in caplog.text
    assert worker.health().ready


def test_polls_that_fail_are_not_followed_by_others_at_once(running):
    driver = DistantDriver()
    hook = FailsBeside(DriverConnectionError("throttled"), once=False)
    consumer = consumer_of(driver, middleware=[hook], queue=QueueOptions(wait_seconds=1))
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 1_000)

    running(consumer)
    eventually(lambda: left_in(driver) == 0)

    assert hook.successes >= 100
    assert 1 <= hook.failures < hook.successes / 4


def test_what_ends_one_poll_for_good_ends_the_worker(running):
    driver = DistantDriver()
    hook = FailsBeside(SystemExit("a hook ends the process"))
    consumer = consumer_of(driver, middleware=[hook], queue=QueueOptions(wait_seconds=1))
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 1_000)

    worker = running(consumer)
    eventually(lambda: worker.has_ended)

    assert hook.failures
    assert driver.measure_queue(consumer.queue).in_flight == 0


def test_a_stop_waits_for_all_open_calls(running):
    driver = DistantDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 3_000)
    worker = running(consumer)
    eventually(lambda: driver.open["receive"] > 1 and driver.open["acknowledge"] > 1)

    is_clean = worker.stop(DEADLINE_SECONDS)

    assert is_clean
    assert driver.open == {"receive": 0, "acknowledge": 0}
    assert driver.in_flight == 0
    assert driver.measure_queue(consumer.queue).in_flight == 0
    assert left_in(driver) + len(consumer.store) == 3_000
