"""What a worker leaves behind when it stops: nothing lost, nothing received again, delays kept."""

import asyncio
import threading
import time

import pytest

from melange import (
    DeduplicationError,
    MemoryDeduplicationStore,
    QueueOptions,
    Retry,
    RetryPolicy,
    ThreadedExchangeMessageConsumer,
)
from melange.drivers.memory import InMemoryDriver
from melange.middleware import Middleware
from waiting import eventually
from watched_driver import WatchedDriver, begin_stop, consumer_of, left_in, send, worker_on

DEADLINE_SECONDS = 30


def receives_since(driver, moment):
    return [
        deliveries for _, received_at, deliveries in driver.receives if received_at > moment and deliveries
    ]


@pytest.mark.parametrize("is_patient", [True, False])
def test_a_retry_that_waits_is_released_with_the_rest_of_its_delay(is_patient):
    driver = WatchedDriver(is_patient=is_patient)
    consumer = consumer_of(driver, "stock.fifo", queue=QueueOptions(wait_seconds=3))
    failed = threading.Event()

    @consumer.listener(name="listener")
    def ask_for_later(event):
        failed.set()
        raise Retry(100)

    send(driver, consumer.queue, 1, lambda number: "a")
    worker = worker_on(consumer, grace_seconds=9)
    began_at = time.monotonic()
    worker.start()
    assert failed.wait(DEADLINE_SECONDS)
    eventually(lambda: worker._queue_workers[0]._lanes.waiting)
    threading.Event().wait(1.2)
    assert worker.stop(DEADLINE_SECONDS)

    passed = time.monotonic() - began_at
    assert 100 - passed - 1 <= driver.released["id-0"] <= 99
    assert driver.measure_queue(consumer.queue).in_flight == 1  # until its delay is over
    assert driver.in_flight == 0


@pytest.mark.parametrize("queue_name", ["stock", "stock.fifo"])
def test_what_is_released_on_a_stop_is_not_received_by_the_workers_own_open_poll(queue_name):
    driver = WatchedDriver(is_patient=True)
    consumer = consumer_of(
        driver, queue_name, queue=QueueOptions(wait_seconds=3), retry=RetryPolicy(backoff=lambda attempts: 0)
    )
    started, gate = threading.Semaphore(0), threading.Event()

    @consumer.listener(name="listener")
    def fail_late(event):
        started.release()
        gate.wait(DEADLINE_SECONDS)
        raise ValueError

    worker = worker_on(consumer, concurrency=3, grace_seconds=9)
    send(driver, consumer.queue, 2, lambda number: f"{number}")
    worker.start()
    for _ in range(2):
        assert started.acquire(timeout=DEADLINE_SECONDS)
    eventually(lambda: driver.open_polls)
    stopped_at = time.monotonic()
    begin_stop(worker)
    gate.set()

    assert worker.stop(DEADLINE_SECONDS)
    assert not driver.open_polls
    assert receives_since(driver, stopped_at) == []
    assert driver.measure_queue(consumer.queue).visible == 2
    assert driver.in_flight == 0


def test_what_the_last_poll_still_brings_is_released():
    driver = WatchedDriver(is_patient=True)
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=20))
    seen = []
    consumer.listener(name="listener")(seen.append)
    worker = worker_on(consumer, grace_seconds=25)
    worker.start()
    eventually(lambda: driver.open_polls)
    begin_stop(worker)
    send(driver, consumer.queue, 5)

    assert worker.stop(DEADLINE_SECONDS)

    assert any(deliveries for *_, deliveries in driver.receives)
    assert seen == []
    assert driver.measure_queue(consumer.queue).visible == 5


@pytest.mark.parametrize("queue_name", ["stock", "stock.fifo"])
def test_restarts_use_no_attempts_and_few_receives(queue_name):
    driver = InMemoryDriver()
    attempts, receives = [], []
    for _ in range(5):
        consumer = consumer_of(
            driver,
            queue_name,
            queue=QueueOptions(wait_seconds=0),
            retry=RetryPolicy(backoff=lambda attempts: 0.01),
        )
        begun, gate = threading.Event(), threading.Event()

        @consumer.listener(name="listener")
        def fail_once_in_each_process(event, attempt, receive_count, begun=begun, gate=gate):
            if event["number"]:
                attempts.append(attempt)
                receives.append(receive_count)
            else:
                begun.set()
                gate.wait(DEADLINE_SECONDS)
                raise Retry(0)

        if not attempts and not driver.measure_queue(consumer.queue).visible:
            send(driver, consumer.queue, 10, lambda number: "a")
        worker = worker_on(consumer, concurrency=1)
        worker.start()
        assert begun.wait(DEADLINE_SECONDS)
        begin_stop(worker)
        gate.set()
        assert worker.stop(DEADLINE_SECONDS)

    last = consumer_of(driver, queue_name, queue=QueueOptions(wait_seconds=0))
    last.listener(name="listener")(lambda event, attempt: attempts.append(attempt))
    worker = worker_on(last)
    worker.start()
    eventually(lambda: left_in(driver, queue_name) == 0)
    assert worker.stop(DEADLINE_SECONDS)
    assert left_in(driver, last.queue.dead_letter_queue.name) == 0
    assert sorted(attempts) == [*[1] * 9, 6]  # the head failed in each of five processes
    assert all(count <= 6 for count in receives)


class PassesThrough(Middleware):
    """Has asynchronous listeners keep a thread waiting."""

    def around_listener(self, call, run):
        return run(call)


class StoreForThreads(MemoryDeduplicationStore):
    """Has the steps of asynchronous listeners taken on threads."""

    answers_at_once = False


@pytest.mark.parametrize("queue_name", ["stock", "stock.fifo"])
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(
    ("make_store", "middleware"),
    [(MemoryDeduplicationStore, []), (StoreForThreads, []), (MemoryDeduplicationStore, [PassesThrough()])],
    ids=["on the loop", "on threads", "with a hook"],
)
def test_after_the_grace_period_no_other_listener_of_a_message_begins(
    queue_name, is_async, make_store, middleware
):
    driver, store = InMemoryDriver(), make_store()
    begun, seen = threading.Event(), []

    def consume():
        consumer = consumer_of(
            driver,
            queue_name,
            deduplication=store,
            middleware=middleware,
            retry=RetryPolicy(backoff=lambda attempts: 0),
            queue=QueueOptions(wait_seconds=0),
        )

        @consumer.listener(name="first")
        async def hang_at_first(event, attempt):
            begun.set()
            if attempt == 1:
                await asyncio.sleep(DEADLINE_SECONDS)

        def second(event, attempt):
            seen.append(attempt)

        async def second_async(event, attempt):
            seen.append(attempt)

        consumer.listener(name="second")(second_async if is_async else second)
        return consumer

    stopped, following = consume(), consume()
    send(driver, stopped.queue, 1, lambda number: "a")
    worker = worker_on(stopped, grace_seconds=0.3)
    worker.start()
    assert begun.wait(DEADLINE_SECONDS)
    assert not worker.stop(DEADLINE_SECONDS)
    seen_by_then = list(seen)
    worker = worker_on(following)
    worker.start()
    eventually(lambda: left_in(driver, queue_name) == 0)
    assert worker.stop(DEADLINE_SECONDS)

    assert (seen_by_then, seen) == ([], [1])


class StopsTheWorker(Middleware):
    """Stops the worker from a hook."""

    worker = None

    def __init__(self, place):
        self.place = place
        self.answers = []

    def _stop(self, place):
        if place == self.place and self.worker is not None and not self.answers:
            self.answers.append(self.worker.stop())

    def around_poll(self, queue, poll):
        self._stop("poll")
        return poll()

    def around_delivery(self, delivery, process):
        self._stop("delivery")
        return process()

    def around_listener(self, call, run):
        self._stop("listener")
        return run(call)


@pytest.mark.parametrize("place", ["poll", "delivery", "listener"])
def test_a_hook_may_stop_its_worker(place):
    driver = InMemoryDriver()
    hook = StopsTheWorker(place)
    consumer = consumer_of(driver, middleware=[hook], queue=QueueOptions(wait_seconds=1))
    consumer.listener(name="listener")(lambda event: None)
    send(driver, consumer.queue, 3)
    hook.worker = worker_on(consumer)
    hook.worker.start()

    eventually(lambda: hook.worker.has_ended)

    assert set(hook.answers) == {False}  # several may ask at once
    assert hook.worker.stop()


@pytest.mark.parametrize("kind", ["plain", "with a time limit", "a suspect"])
def test_a_listener_may_stop_its_worker_on_whatever_thread_it_runs(kind):
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    answers = []

    @consumer.listener(name="listener", timeout_seconds=20 if kind == "with a time limit" else None)
    def stop(event):
        answers.append(worker.stop())

    send(driver, consumer.queue, 1)
    for _ in range(2 if kind == "a suspect" else 0):
        driver.defer(driver.receive(consumer.queue, 1, 0), 0)
    worker = worker_on(consumer)
    worker.start()

    eventually(lambda: worker.has_ended)

    assert answers == [False]
    assert worker.stop()


def test_a_plain_batch_listener_may_stop_its_worker():
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    answers = []

    @consumer.batch_listener(name="listener", max_events=1)
    def stop(events):
        answers.append(worker.stop())

    send(driver, consumer.queue, 1)
    worker = worker_on(consumer)
    worker.start()

    eventually(lambda: worker.has_ended)

    assert answers == [False]
    assert worker.stop()


def test_another_thread_that_a_listener_started_waits_for_the_end():
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=1))
    answers = []
    consumer.listener(name="listener")(
        lambda event: threading.Thread(target=lambda: answers.append(worker.stop())).start()
    )
    send(driver, consumer.queue, 1)
    worker = worker_on(consumer)
    worker.start()

    eventually(lambda: answers == [True])


class StoreOnTheLoop(MemoryDeduplicationStore):
    """Asks whether it is available on the event loop of the worker, as an inbox of asynchronous sessions does."""

    answers_at_once = False

    def __init__(self):
        super().__init__()
        self.is_available = True
        self.loops = []

    def use_event_loop(self, run_coroutine):
        self._run_coroutine = run_coroutine

    def check(self):
        async def note_loop():
            self.loops.append(asyncio.get_running_loop())

        self._run_coroutine(note_loop())
        if not self.is_available:
            raise DeduplicationError("out of reach")

    def claim(self, key, token, lease_seconds):
        if not self.is_available:
            raise DeduplicationError("out of reach")
        return super().claim(key, token, lease_seconds)


def test_a_store_is_asked_on_the_same_event_loop_until_the_end():
    driver, store = InMemoryDriver(), StoreOnTheLoop()
    consumer = consumer_of(driver, deduplication=store, queue=QueueOptions(wait_seconds=1))
    seen = []

    @consumer.listener(name="listener")
    async def see(event):
        seen.append(event["number"])

    worker = worker_on(consumer, grace_seconds=6)
    worker.start()
    send(driver, consumer.queue, 1)
    eventually(lambda: seen)
    store.is_available = False
    send(driver, consumer.queue, 1, first=1)
    eventually(lambda: len(store.loops) > 2)
    assert worker.stop(DEADLINE_SECONDS)  # it asks once more at its end

    assert len(set(map(id, store.loops))) == 1
    eventually(lambda: "melange-event-loop" not in {one.name for one in threading.enumerate()})


def test_suspects_that_have_not_begun_are_released_and_the_one_at_work_is_waited_for():
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=0))
    begun, gate, seen = threading.Event(), threading.Event(), []

    @consumer.listener(name="listener")
    def wait(event):
        begun.set()
        gate.wait(DEADLINE_SECONDS)
        seen.append(event["number"])

    send(driver, consumer.queue, 5)
    for _ in range(2):
        driver.defer(driver.receive(consumer.queue, 10, 0), 0)
    worker = worker_on(consumer, concurrency=5)
    worker.start()
    assert begun.wait(DEADLINE_SECONDS)
    begin_stop(worker)
    gate.set()

    assert worker.stop(DEADLINE_SECONDS)
    assert len(seen) == 1
    assert driver.measure_queue(consumer.queue).visible == 4


def test_a_suspect_that_waits_for_others_is_released_on_a_stop():
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=0))
    begun, gate, seen = threading.Event(), threading.Event(), []

    @consumer.listener(name="listener")
    def wait(event):
        begun.set()
        gate.wait(DEADLINE_SECONDS)
        seen.append(event["number"])

    send(driver, consumer.queue, 1, first=1)
    driver.defer(driver.receive(consumer.queue, 1, 0), 0)
    driver.defer(driver.receive(consumer.queue, 1, 0), 1)  # a suspect, once it is visible again
    send(driver, consumer.queue, 1)
    worker = worker_on(consumer, concurrency=5)
    worker.start()
    assert begun.wait(DEADLINE_SECONDS)
    eventually(lambda: worker.health().queues[0].in_flight == 2)
    begin_stop(worker)
    gate.set()

    assert worker.stop(DEADLINE_SECONDS)
    assert seen == [0]
    assert driver.measure_queue(consumer.queue).visible == 1


def test_a_threaded_consumer_starts_again_while_runs_of_the_last_time_still_finish():
    driver = InMemoryDriver()
    consumer = ThreadedExchangeMessageConsumer(
        "stock", driver=driver, concurrency=2, grace_seconds=0.5, queue=QueueOptions(wait_seconds=0)
    )
    begun, gate, seen = threading.Event(), threading.Event(), []

    @consumer.listener(name="listener")
    def hang_at_first(event):
        if not begun.is_set():
            begun.set()
            gate.wait(DEADLINE_SECONDS)
        seen.append(event["number"])

    send(driver, consumer.queue, 1)
    consumer.start()
    assert begun.wait(DEADLINE_SECONDS)
    assert not consumer.shutdown()

    consumer.start()
    send(driver, consumer.queue, 3, first=1)
    eventually(lambda: sorted(seen) == [1, 2, 3])
    gate.set()
    eventually(lambda: sorted(seen) == [0, 1, 2, 3])
    assert consumer.shutdown()


def test_restarts_leave_no_threads():
    driver = InMemoryDriver()
    before = set(threading.enumerate())
    consumer = ThreadedExchangeMessageConsumer(
        "stock", driver=driver, concurrency=2, queue=QueueOptions(wait_seconds=0)
    )
    seen = []

    @consumer.listener(name="listener")
    async def listen(event):
        seen.append(event["number"])

    for number in range(5):
        consumer.start()
        send(driver, consumer.queue, 1, first=number)
        eventually(lambda number=number: len(seen) == number + 1)
        assert consumer.shutdown()

    eventually(lambda: not set(threading.enumerate()) - before)


class OnePollAtATime(WatchedDriver):
    """No poll begins or is open while a test holds ``polling``."""

    def __init__(self):
        super().__init__()
        self.polling = threading.Lock()

    def receive(self, *arguments, **options):
        with self.polling:
            return super().receive(*arguments, **options)


def test_a_delivery_that_another_worker_has_taken_over_is_not_left_behind_by_the_stop():
    driver = OnePollAtATime()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=0))
    seen, began, gate = [], threading.Event(), threading.Event()

    @consumer.listener(name="listener")
    def wait_at_the_last_but_one(event, message_id):
        seen.append(message_id)
        if len(seen) == 21:
            began.set()
            gate.wait(DEADLINE_SECONDS)

    send(driver, consumer.queue, 22)  # quick ones first, so that some are received ahead
    worker = worker_on(consumer, concurrency=1, grace_seconds=9)
    worker.start()
    assert began.wait(DEADLINE_SECONDS)
    waiting = eventually(
        lambda: [one for *_, found in driver.receives for one in found if one.message.message_id not in seen]
    )
    with driver.polling:
        driver.defer(waiting, 0)  # its lease is lost, as after a long pause of the process
        taken = InMemoryDriver.receive(driver, consumer.queue, 1, 0)
    begin_stop(worker)
    gate.set()

    assert [one.message for one in taken] == [one.message for one in waiting]
    assert worker.stop(DEADLINE_SECONDS)
