"""Backpressure: what a worker has in flight is bounded, and what fails or is slow leaves capacity to the rest."""

import threading
import time
from collections import Counter

import pytest

from melange import DriverConnectionError, MemoryDeduplicationStore, QueueOptions, Retry, RetryPolicy
from melange.drivers.memory import InMemoryDriver
from waiting import eventually
from watched_driver import WatchedDriver, consumer_of, left_in, send

DEADLINE_SECONDS = 30


@pytest.mark.parametrize("concurrency", [1, 10])
def test_slow_acknowledgements_hold_polling_at_the_bound(running, concurrency):
    driver = WatchedDriver(acknowledging_seconds=0.5)
    consumer = consumer_of(driver)
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 2_000)

    worker = running(consumer, concurrency=concurrency)
    (queue,) = worker.health().queues
    eventually(lambda: driver.most_in_flight == queue.limit)
    settled = len(consumer.store)
    eventually(lambda: len(consumer.store) > settled + queue.limit)  # it goes on below the bound

    assert worker.stop(DEADLINE_SECONDS)
    assert driver.most_in_flight == queue.limit
    assert driver.in_flight == 0
    assert driver.measure_queue(consumer.queue).in_flight == 0


@pytest.mark.parametrize("failing_seconds", [0, 0.3], ids=["fails at once", "fails late"])
def test_thousands_of_failing_groups_stay_within_the_bound_and_leave_capacity_to_others(
    running, failing_seconds
):
    driver = WatchedDriver(deferring_seconds=0.02)
    consumer = consumer_of(
        driver,
        "stock.fifo",
        retry=RetryPolicy(backoff=lambda attempts: 60),
        queue=QueueOptions(wait_seconds=1),
    )
    healthy = []

    @consumer.listener(name="listener")
    def listen(event):
        if event["number"] < 3_000:
            time.sleep(failing_seconds)
            raise ValueError("downstream is unavailable")
        healthy.append(event["number"])

    send(driver, consumer.queue, 6, lambda number: f"failing-{number}")
    worker = running(consumer, concurrency=4)
    (queue,) = worker.health().queues
    eventually(lambda: len(driver.receives) > 1)
    if not failing_seconds:
        send(driver, consumer.queue, 2_000, lambda number: f"failing-{number % 1_000}", first=6)
    else:
        send(driver, consumer.queue, 20, lambda number: f"failing-{number}", first=6)
    send(driver, consumer.queue, 20, lambda number: f"healthy-{number}", first=3_000)
    eventually(lambda: len(healthy) == 20)

    assert worker.stop(DEADLINE_SECONDS)  # within its grace period
    assert driver.most_in_flight <= queue.limit
    assert driver.in_flight == 0
    assert worker.health().queues[0].leases_lost == 0


def test_deferrals_under_way_count_as_in_flight(running):
    driver = WatchedDriver(deferring_seconds=0.3)
    consumer = consumer_of(driver, retry=RetryPolicy(backoff=lambda attempts: 60))

    @consumer.listener(name="listener")
    def fail(event):
        raise ValueError

    send(driver, consumer.queue, 300)
    worker = running(consumer, concurrency=4)
    eventually(lambda: len(driver.released) > 50)

    assert driver.most_in_flight <= worker.health().queues[0].limit
    assert worker.stop(DEADLINE_SECONDS)
    assert driver.in_flight == 0


def test_groups_that_wait_for_a_retry_take_no_thread_from_the_others(running):
    driver = WatchedDriver()
    consumer = consumer_of(
        driver,
        "stock.fifo",
        retry=RetryPolicy(backoff=lambda attempts: 600),
        queue=QueueOptions(wait_seconds=1),
    )
    healthy = []

    @consumer.listener(name="listener")
    def listen(event):
        threading.Event().wait(1.1)  # so slow that nothing is received ahead
        if event["number"] < 100:
            raise ValueError("downstream is unavailable")
        healthy.append(event["number"])

    send(driver, consumer.queue, 8, lambda number: f"failing-{number}")
    worker = running(consumer, concurrency=2)
    eventually(lambda: len(driver.released) + worker.health().queues[0].in_flight >= 8)
    send(driver, consumer.queue, 2, lambda number: f"healthy-{number}", first=100)

    eventually(lambda: sorted(healthy) == [100, 101])


def test_a_head_that_lost_its_lease_while_it_waited_gives_up_its_lane_and_comes_first_again(running):
    class Forgets(InMemoryDriver):
        """Cannot renew, as while the network is down."""

        is_down = True

        def defer(self, deliveries, seconds):
            if self.is_down:
                raise DriverConnectionError("the network is down")
            return super().defer(deliveries, seconds)

    driver = Forgets()
    consumer = consumer_of(
        driver,
        "stock.fifo",
        retry=RetryPolicy(backoff=lambda attempts: 600),
        queue=QueueOptions(wait_seconds=0, visibility_timeout_seconds=2),
    )
    seen = []

    @consumer.listener(name="listener")
    def fail_at_first(event):
        seen.append(event["number"])
        if seen == [0]:
            raise ValueError

    send(driver, consumer.queue, 1, lambda number: "a")
    worker = running(consumer, concurrency=1)
    eventually(lambda: worker._queue_workers[0]._lanes.waiting)
    driver.is_down = False
    for lease in list(worker._queue_workers[0]._keeper._held):
        lease.lose()
    send(driver, consumer.queue, 2, lambda number: "a", first=1)

    eventually(lambda: left_in(driver, "stock.fifo") == 0)
    assert seen == [0, 0, 1, 2]
    eventually(lambda: worker.health().queues[0].in_flight == 0)


def test_a_redelivery_that_comes_before_the_loss_is_noticed_takes_over_its_lane(running):
    driver = WatchedDriver()
    consumer = consumer_of(
        driver,
        retry=RetryPolicy(backoff=lambda attempts: 600),
        queue=QueueOptions(wait_seconds=1, ordered_by="number"),
    )
    seen = []

    @consumer.listener(name="listener")
    def fail_at_first(event, message_id):
        seen.append(message_id)
        if len(seen) == 1:
            raise ValueError

    send(driver, consumer.queue, 1)
    worker = running(consumer, concurrency=1)
    eventually(lambda: worker._queue_workers[0]._lanes.waiting)
    (held,) = worker._queue_workers[0]._keeper._held
    held.lose()
    driver.defer([held.delivery], 0)

    eventually(lambda: left_in(driver) == 0)
    assert seen == ["id-0", "id-0"]
    eventually(lambda: worker.health().queues[0].in_flight == 0)


def test_an_empty_queue_with_work_in_flight_is_polled_as_seldom_as_alone(running):
    driver = WatchedDriver()
    consumers = [
        consumer_of(
            driver, name, queue=QueueOptions(wait_seconds=20), deduplication=MemoryDeduplicationStore()
        )
        for name in ("busy", "quiet")
    ]
    started, gate = threading.Event(), threading.Event()
    for consumer in consumers:

        @consumer.listener(name="listener")
        def wait(event):
            started.set()
            gate.wait(DEADLINE_SECONDS)

    send(driver, consumers[0].queue, 1)
    running(*consumers, concurrency=4)
    assert started.wait(DEADLINE_SECONDS)
    threading.Event().wait(2)

    polls = Counter(name for name, _, _ in driver.receives)
    gate.set()
    assert polls["busy"] <= 2  # those that have ended: the one with the message, and perhaps another
    assert polls["quiet"] <= 1


def test_a_queue_of_slow_work_leaves_a_thread_to_each_of_the_others(running):
    driver = WatchedDriver()
    slow, quick = (
        consumer_of(
            driver, name, queue=QueueOptions(wait_seconds=1), deduplication=MemoryDeduplicationStore()
        )
        for name in ("slow", "quick")
    )
    gate, done = threading.Event(), threading.Semaphore(0)
    slow.listener(name="listener")(lambda event: gate.wait(DEADLINE_SECONDS))
    quick.listener(name="listener")(lambda event: done.release())
    send(driver, slow.queue, 100)
    running(slow, quick, concurrency=3)
    eventually(lambda: driver.in_flight >= 2)
    send(driver, quick.queue, 50)

    for _ in range(50):
        assert done.acquire(timeout=DEADLINE_SECONDS)
    gate.set()


def test_long_retries_of_many_messages_do_not_hold_up_a_standard_queue(running):
    driver = WatchedDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1, ordered_by="number"))
    healthy = []

    @consumer.listener(name="listener")
    def listen(event):
        if event["number"] < 200:
            raise Retry(3_600)
        healthy.append(event["number"])

    send(driver, consumer.queue, 200)
    worker = running(consumer, concurrency=4)
    send(driver, consumer.queue, 20, first=200)

    eventually(lambda: len(healthy) == 20)
    assert driver.most_in_flight <= worker.health().queues[0].limit
    assert worker.stop(DEADLINE_SECONDS)
    assert driver.in_flight == 0
