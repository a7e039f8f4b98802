"""Settling that is interrupted or goes wrong: no lease is kept without end, and no group stands still."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from melange import MemoryDeduplicationStore, Middleware, QueueOptions, Reject, RetryPolicy
from melange.consuming import poison_messages
from melange.consuming.leases import Lease
from melange.consuming.ordering import RetryTimers
from melange.consuming.poison_messages import Suspects
from melange.drivers.memory import InMemoryDriver
from melange.messages import Delivery, Message
from melange.testing import ManualClock
from waiting import eventually
from watched_driver import consumer_of, left_in, send

DEADLINE_SECONDS = 30


class LeavesOnce(InMemoryDriver):
    """Its first call of an operation raises ``SystemExit``, as a signal handler of an application may."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def defer(self, deliveries, seconds):
        if self.operation == "release" and seconds == 0:
            self._leave()
        return super().defer(deliveries, seconds)

    def acknowledge(self, deliveries):
        if self.operation == "acknowledge":
            self._leave()
        return super().acknowledge(deliveries)

    def dead_letter(self, delivery, note):
        if self.operation == "dead_letter":
            self._leave()
        super().dead_letter(delivery, note)

    def _leave(self):
        self.operation = None
        raise SystemExit


class LongLivedStore(MemoryDeduplicationStore):
    """Stands for a server of its own, so that a FIFO worker receives several messages at once from the beginning."""

    outlives_process = True


@pytest.mark.parametrize(
    ("operation", "queue_name"),
    [
        ("release", "stock.fifo"),
        ("acknowledge", "stock"),
        ("acknowledge", "stock.fifo"),
        ("dead_letter", "stock"),
        ("dead_letter", "stock.fifo"),
    ],
)
def test_a_call_that_exits_leaves_no_message_in_flight_without_end(running, operation, queue_name):
    driver = LeavesOnce(operation)
    consumer = consumer_of(
        driver,
        queue_name,
        queue=QueueOptions(wait_seconds=0, visibility_timeout_seconds=1),
        retry=RetryPolicy(max_attempts=2, backoff=lambda attempts: 0.01),
        deduplication=LongLivedStore(),
    )
    attempts = []

    @consumer.listener(name="listener")
    def listen(event):
        attempts.append(event["number"])
        if event["number"] == 0 and (operation == "dead_letter" or attempts.count(0) == 1):
            raise Reject("never") if operation == "dead_letter" else ValueError

    send(driver, consumer.queue, 3, lambda number: "a")
    worker = running(consumer, concurrency=3)

    eventually(lambda: driver.operation is None)
    eventually(lambda: left_in(driver, queue_name) == 0)
    eventually(lambda: worker.health().queues[0].in_flight == 0)
    assert {0, 1, 2} == set(attempts)
    assert worker.stop(DEADLINE_SECONDS)


class LeavesBeforeSettling(Middleware):
    """Exits the first time, before the settling or after it."""

    def __init__(self, before):
        self.before = before
        self.has_left = False

    def around_settle(self, queue, outcomes, settle):
        if not self.before:
            settle()
        if not self.has_left:
            self.has_left = True
            raise SystemExit
        if self.before:
            settle()


@pytest.mark.parametrize("before", [True, False])
def test_a_hook_that_exits_around_settling_does_not_end_the_acknowledging(running, before):
    driver = InMemoryDriver()
    consumer = consumer_of(
        driver, queue=QueueOptions(wait_seconds=0), middleware=[LeavesBeforeSettling(before)]
    )
    seen = []
    consumer.listener(name="listener")(lambda event: seen.append(event["number"]))
    worker = running(consumer)

    for number in range(3):
        send(driver, consumer.queue, 1, first=number)
        eventually(lambda: left_in(driver) == 0)

    assert seen == [0, 1, 2]
    assert worker.stop(DEADLINE_SECONDS)


def test_a_hook_that_exits_around_settling_ends_consume_event_with_everything_settled():
    driver = InMemoryDriver()
    consumer = consumer_of(
        driver, queue=QueueOptions(wait_seconds=0), middleware=[LeavesBeforeSettling(True)]
    )
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 3)

    with pytest.raises(SystemExit):
        consumer.consume_event()

    assert left_in(driver) == 0


def test_many_threads_may_release_more_messages_than_are_remembered(monkeypatch):
    monkeypatch.setattr(poison_messages, "_MOST_REMEMBERED", 100)
    driver = InMemoryDriver()
    queue = driver.declare_queue("stock")
    found = Suspects()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def received(name):
        return Delivery(Message(name, "{}"), queue, "handle", 3, 0.0)

    def release(thread):
        for number in range(3_000):
            found.released(received(f"{thread}-{number}"))

    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(release, range(8)))  # raises what a thread has raised
    finally:
        sys.setswitchinterval(before)
    found.released(received("last"))

    assert not found.includes(received("last"))
    assert found.includes(received("0-0"))


def test_a_retry_that_begins_while_the_timers_are_closed_has_begun_when_they_are():
    clock = ManualClock()
    timers = RetryTimers(clock)
    driver = InMemoryDriver()
    lease = Lease(Delivery(Message("id", "{}"), driver.declare_queue("stock"), "handle", 1, 0.0), clock)
    begins, gate, order = threading.Event(), threading.Event(), []

    def begin(lease):
        begins.set()
        gate.wait(DEADLINE_SECONDS)
        order.append("begun")

    def close():
        order.append(timers.close())

    timers.after(0, begin, lease)
    assert begins.wait(DEADLINE_SECONDS)
    closing = threading.Thread(target=close)
    closing.start()
    eventually(lambda: not timers.after(0, begin, lease))
    gate.set()
    closing.join()

    assert order == ["begun", []]
