"""The worker, on the in-memory driver and in real time."""

import asyncio
import logging
import threading
from collections import Counter, defaultdict

import pytest

from consumer_options import grouped
from melange import (
    ConfigurationError,
    DeduplicationError,
    DriverConnectionError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    MemoryDeduplicationStore,
    Middleware,
    QueueOptions,
    Reject,
)
from melange.consuming.worker import Worker
from melange.drivers.memory import InMemoryDriver
from waiting import eventually
from watched_driver import UnreliableDriver, left_in

DEADLINE_SECONDS = 30
EVENT = {"event_type_name": "ProductAdded"}


@pytest.fixture
def driver():
    with InMemoryDriver() as driver:
        yield driver


@pytest.fixture
def store():
    return MemoryDeduplicationStore()


@pytest.fixture
def make_consumer(driver, store):
    def make(queue_name="stock", topic_name="products", **options):
        options = {"wait_seconds": 1, "deduplication": store, "backoff": lambda attempts: 0, **options}
        return ExchangeMessageConsumer(queue_name, topic_name, driver=driver, **grouped(**options))

    return make


def publish(driver, count, topic="products", **options):
    events = [{**EVENT, "number": number} for number in range(count)]
    return ExchangeMessagePublisher(topic, driver).publish_batch(events, **options)


def test_everything_is_processed_once_and_acknowledged(driver, make_consumer, running):
    consumer = make_consumer()
    seen = Counter()
    consumer.listener(name="count")(lambda event: seen.update([event["number"]]))
    publish(driver, 500)

    worker = running(consumer, concurrency=8)
    eventually(lambda: left_in(driver) == 0)

    assert worker.stop(DEADLINE_SECONDS)
    assert seen == Counter(range(500))


def test_no_more_is_in_hand_than_the_concurrency(driver, make_consumer, running):
    consumer = make_consumer()
    gate = threading.Event()
    started = threading.Semaphore(0)

    @consumer.listener()
    def wait(event):
        started.release()
        gate.wait(DEADLINE_SECONDS)

    publish(driver, 20)
    running(consumer, concurrency=3)
    for _ in range(3):
        assert started.acquire(timeout=DEADLINE_SECONDS)

    assert driver.measure_queue(consumer.queue).in_flight == 3
    assert driver.measure_queue(consumer.queue).visible == 17
    assert not started.acquire(blocking=False)
    gate.set()
    eventually(lambda: left_in(driver) == 0)


def test_a_busy_queue_does_not_starve_another(driver, make_consumer, running):
    busy, other = make_consumer("busy"), make_consumer("other", "others")
    gate = threading.Event()
    seen = threading.Event()
    busy.listener(name="busy")(lambda event: gate.wait(DEADLINE_SECONDS))
    other.listener(name="other")(lambda event: seen.set())
    publish(driver, 100)

    running(busy, other, concurrency=4)
    eventually(lambda: driver.measure_queue(busy.queue).in_flight > 0)
    publish(driver, 1, "others")

    assert seen.wait(DEADLINE_SECONDS)
    gate.set()


def test_an_idle_queue_leaves_the_slots_to_a_busy_one(driver, make_consumer, running):
    busy, idle = make_consumer("busy", wait_seconds=20), make_consumer("idle", "others", wait_seconds=20)
    gate = threading.Event()
    busy.listener(name="busy")(lambda event: gate.wait(DEADLINE_SECONDS))
    idle.listener(name="idle")(lambda event: None)

    running(busy, idle, concurrency=8, grace_seconds=25)
    publish(driver, 100)

    eventually(lambda: driver.measure_queue(busy.queue).in_flight == 7)
    gate.set()
    eventually(lambda: left_in(driver, "busy") == 0)
    ExchangeMessagePublisher("others", driver).publish(EVENT)  # ends the open poll


def test_a_slow_listener_keeps_its_lease(driver, make_consumer, running):
    consumer = make_consumer(visibility_timeout_seconds=3, wait_seconds=0)
    runs, lost = [], []

    @consumer.listener()
    def slow(event, lease_lost):
        runs.append(event["number"])
        threading.Event().wait(5)  # more than a timeout; half of one may be lost to a busy machine
        lost.append(lease_lost())

    publish(driver, 2)
    running(consumer, concurrency=2)
    eventually(lambda: left_in(driver) == 0)

    assert sorted(runs) == [0, 1]
    assert lost == [False, False]


class RefusesRenewals(InMemoryDriver):
    """Cannot defer, so that leases run out."""

    def defer(self, deliveries, seconds):
        raise DriverConnectionError("out of reach")


def test_a_listener_can_learn_that_its_lease_is_lost(store):
    with RefusesRenewals() as driver:
        consumer = ExchangeMessageConsumer(
            "stock",
            driver=driver,
            deduplication=store,
            queue=QueueOptions(wait_seconds=0, visibility_timeout_seconds=1),
        )
        lost = threading.Event()

        @consumer.listener()
        def slow(event, lease_lost):
            eventually(lease_lost)
            lost.set()

        worker = Worker(consumer, grace_seconds=10)
        driver.declare_queue("stock", driver.declare_topic("products"))
        publish(driver, 1)
        worker.start()

        assert lost.wait(DEADLINE_SECONDS)
        worker.stop(DEADLINE_SECONDS)


# --- asynchronous listeners ------------------------------------------------------------------------


def test_asynchronous_listeners_wait_side_by_side(driver, make_consumer, running):
    consumer = make_consumer()
    all_wait = asyncio.Event()
    waiting = 0

    @consumer.listener()
    async def wait(event):
        nonlocal waiting
        waiting += 1
        if waiting == 200:
            all_wait.set()
        await asyncio.wait_for(all_wait.wait(), DEADLINE_SECONDS)

    publish(driver, 200)
    running(consumer, concurrency=200)
    eventually(lambda: left_in(driver) == 0)

    assert all_wait.is_set()
    assert waiting == 200


def test_synchronous_and_asynchronous_listeners_mix(driver, make_consumer, running):
    consumer = make_consumer()
    seen = Counter()
    consumer.listener(name="plain")(lambda event: seen.update(["plain"]))

    @consumer.listener(name="asynchronous")
    async def asynchronous(event):
        seen.update(["asynchronous"])
        if seen["asynchronous"] == 1:
            raise ValueError

    publish(driver, 1)
    running(consumer)
    eventually(lambda: left_in(driver) == 0)

    assert seen == {"plain": 1, "asynchronous": 2}


# --- order -----------------------------------------------------------------------------------------


def test_groups_of_a_fifo_queue_are_in_order_one_at_a_time_and_beside_each_other(
    driver, make_consumer, running
):
    consumer = make_consumer("stock.fifo", "products.fifo")
    order, at_work, violations = defaultdict(list), Counter(), []
    failed = set()
    parallel = []

    @consumer.listener()
    def note(event):
        group = event["number"] % 5
        at_work[group] += 1
        if at_work[group] > 1:
            violations.append(group)
        parallel.append(sum(at_work.values()))
        threading.Event().wait(0.005)
        at_work[group] -= 1
        if event["number"] % 7 == 0 and event["number"] not in failed:
            failed.add(event["number"])
            raise ValueError
        order[group].append(event["number"])

    publish(driver, 100, "products.fifo", message_group_id=lambda event: str(event["number"] % 5))
    running(consumer, concurrency=20)
    eventually(lambda: left_in(driver, "stock.fifo") == 0)

    assert order == {group: list(range(group, 100, 5)) for group in range(5)}
    assert violations == []
    assert max(parallel) > 1
    assert failed


def test_a_head_that_fails_uses_no_attempts_of_its_followers(driver, make_consumer, running):
    consumer = make_consumer("stock.fifo", "products.fifo", max_attempts=5)
    counts = defaultdict(list)

    @consumer.listener()
    def note(event, attempt):
        counts[event["number"]].append(attempt)
        if event["number"] < 4:
            raise ValueError

    publish(driver, 6, "products.fifo", message_group_id="a")
    running(consumer, concurrency=10)
    eventually(lambda: left_in(driver, "stock.fifo") == 0)

    assert counts == {**{number: [1, 2, 3, 4, 5] for number in range(4)}, 4: [1], 5: [1]}
    assert left_in(driver, "stock-dlq.fifo") == 4


def test_a_group_that_fails_leaves_the_others_their_slots(driver, make_consumer, running):
    consumer = make_consumer("stock.fifo", "products.fifo", backoff=lambda attempts: 3600)
    seen = []

    @consumer.listener()
    def note(event):
        if event["number"] < 30:
            raise ValueError
        seen.append(event["number"])

    publish(driver, 30, "products.fifo", message_group_id="fails")
    running(consumer, concurrency=5)
    eventually(lambda: driver.measure_queue(consumer.queue).in_flight)
    events = [{**EVENT, "number": number} for number in (30, 31, 32)]
    ExchangeMessagePublisher("products.fifo", driver).publish_batch(events, message_group_id="works")
    eventually(lambda: seen == [30, 31, 32])

    eventually(lambda: driver.measure_queue(consumer.queue).in_flight == 1)


def test_a_blocked_group_waits_for_its_head_and_others_go_on(driver, make_consumer, running):
    consumer = make_consumer("stock.fifo", "products.fifo", on_reject="block", backoff=lambda attempts: 1)
    seen = []
    mended = threading.Event()

    @consumer.listener()
    def note(event):
        if event["number"] == 0 and not mended.is_set():
            raise Reject("not yet")
        seen.append(event["number"])

    publish(driver, 6, "products.fifo", message_group_id=lambda event: str(event["number"] % 2))
    running(consumer)
    eventually(lambda: seen == [1, 3, 5])
    mended.set()
    eventually(lambda: left_in(driver, "stock.fifo") == 0)

    assert seen == [1, 3, 5, 0, 2, 4]
    assert left_in(driver, "stock-dlq.fifo") == 0


def test_a_standard_queue_can_be_ordered_by_a_field(driver, make_consumer, running):
    consumer = make_consumer(ordered_by="customer_id")
    order = defaultdict(list)

    @consumer.listener()
    def note(event):
        threading.Event().wait(0.01 if event["number"] % 2 else 0)
        order[event["customer_id"]].append(event["number"])

    events = [{**EVENT, "number": number, "customer_id": number % 3} for number in range(60)]
    ExchangeMessagePublisher("products", driver).publish_batch(events)
    running(consumer, concurrency=20)
    eventually(lambda: left_in(driver) == 0)

    assert order == {customer: list(range(customer, 60, 3)) for customer in range(3)}


# --- the store -------------------------------------------------------------------------------------


class Interruptible(MemoryDeduplicationStore):
    """Is out of reach on request."""

    away = False

    def check(self):
        if self.away:
            raise DeduplicationError("away")

    def claim(self, key, token, lease_seconds):
        self.check()
        return super().claim(key, token, lease_seconds)


def test_while_the_store_is_away_nothing_runs_and_nothing_is_received(driver, make_consumer, running):
    store = Interruptible()
    consumer = make_consumer(deduplication=store, max_attempts=1)
    seen = []
    consumer.listener(name="note")(lambda event: seen.append(event["number"]))
    store.away = True
    publish(driver, 50)

    worker = running(consumer, concurrency=4)
    eventually(lambda: not worker.health().queues[0].store_is_available)
    assert not worker.health().ready
    store.away = False
    eventually(lambda: left_in(driver) == 0)

    assert sorted(seen) == list(range(50))
    assert left_in(driver, "stock-dlq") == 0


def test_only_the_end_of_an_outage_of_the_store_is_reported(driver, make_consumer, running, caplog):
    caplog.set_level(logging.DEBUG, "melange.consuming")
    store = Interruptible()
    consumer = make_consumer(deduplication=store)
    consumer.listener(name="note")(lambda event: None)
    worker = running(consumer)
    eventually(lambda: levels_of(caplog, "the deduplication store") == ["DEBUG"])

    store.away = True
    publish(driver, 1)
    eventually(lambda: not worker.health().queues[0].store_is_available)
    store.away = False

    eventually(lambda: levels_of(caplog, "the deduplication store") == ["DEBUG", "INFO"])


def levels_of(caplog, text):
    return [record.levelname for record in caplog.records if record.getMessage().startswith(text)]


class LosesCompletions(Interruptible):
    """Goes out of reach when the first listener has finished."""

    lost = 0

    def complete(self, claimed):
        if self.lost < 3:
            self.lost += 1
            raise DeduplicationError("away")
        return super().complete(claimed)


def test_a_mark_that_could_not_be_stored_is_stored_later_without_running_again(
    driver, make_consumer, running
):
    store = LosesCompletions()
    consumer = make_consumer(deduplication=store)
    seen = []
    consumer.listener(name="note")(lambda event: seen.append(event["number"]))
    publish(driver, 1)

    running(consumer)
    eventually(lambda: left_in(driver) == 0)

    assert seen == [0]
    assert len(store) == 1


class LosesAbandons(Interruptible):
    def abandon(self, claimed, *, began=True):
        super().abandon(claimed, began=began)
        raise DeduplicationError("away")


def test_a_claim_that_could_not_be_given_back_does_not_hide_how_the_listener_ended(
    driver, make_consumer, running
):
    consumer = make_consumer(deduplication=LosesAbandons())
    consumer.listener(name="reject")(lambda event: (_ for _ in ()).throw(Reject("no")))
    publish(driver, 1)

    running(consumer)
    eventually(lambda: left_in(driver) == 0)

    assert left_in(driver, "stock-dlq") == 1


def test_a_store_that_is_away_can_be_done_without(driver, make_consumer, running):
    store = Interruptible()
    store.away = True
    consumer = make_consumer(deduplication=store, on_unavailable="process")
    seen = []
    consumer.listener(name="note")(lambda event: seen.append(event["number"]))
    publish(driver, 10)

    running(consumer)
    eventually(lambda: left_in(driver) == 0)

    assert sorted(seen) == list(range(10))


# --- stopping --------------------------------------------------------------------------------------


def test_stopping_gives_back_what_has_not_begun_and_finishes_what_has(driver, make_consumer, running):
    consumer = make_consumer(ordered_by="event_type_name")  # one runs, the others wait for it
    gate, started = threading.Event(), threading.Event()
    done = []

    @consumer.listener()
    def wait(event):
        started.set()
        gate.wait(DEADLINE_SECONDS)
        done.append(event["number"])

    publish(driver, 10)
    worker = running(consumer, concurrency=10)
    queue = consumer.queue
    eventually(lambda: started.is_set() and driver.measure_queue(queue).in_flight == 10)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    eventually(lambda: driver.measure_queue(queue).visible == 9)
    gate.set()
    stopper.join(DEADLINE_SECONDS)

    assert len(done) == 1
    assert driver.measure_queue(queue).in_flight == 0
    assert left_in(driver) == 9
    assert worker.stop()


def test_a_listener_that_outlasts_the_grace_is_left_to_redelivery(driver, make_consumer, running):
    consumer = make_consumer()
    gate, started = threading.Event(), threading.Event()

    @consumer.listener()
    def wait(event):
        started.set()
        gate.wait(DEADLINE_SECONDS)

    publish(driver, 1)
    worker = running(consumer, grace_seconds=1)
    assert started.wait(DEADLINE_SECONDS)

    assert not worker.stop(DEADLINE_SECONDS)
    assert driver.measure_queue(consumer.queue).in_flight == 1
    gate.set()


def test_a_listener_may_stop_its_worker(driver, make_consumer, running):
    consumer = make_consumer()
    answers = []
    consumer.listener(name="stop")(lambda event: answers.append(worker.stop()))
    worker = running(consumer)
    publish(driver, 1)

    assert worker._ended.wait(DEADLINE_SECONDS)

    assert answers == [False]
    assert worker.stop()
    assert left_in(driver) == 0


def test_an_idle_worker_in_memory_stops_without_waiting_for_its_poll_to_end(make_consumer, running):
    consumer = make_consumer(wait_seconds=20)
    consumer.listener()(print)
    worker = running(consumer, grace_seconds=60)
    eventually(lambda: worker.health().queues[0].in_flight == 0)

    assert worker.stop(timeout_seconds=10)


def test_stopping_before_the_start_and_twice_is_safe(make_consumer):
    consumer = make_consumer()
    consumer.listener()(print)
    worker = Worker(consumer, grace_seconds=10)

    assert worker.stop()
    worker.start()
    assert worker.stop(DEADLINE_SECONDS)
    assert worker.stop(DEADLINE_SECONDS)
    with pytest.raises(ConfigurationError, match="runs once"):
        worker.start()


def test_all_threads_end_with_the_worker(driver, make_consumer, running):
    before = set(threading.enumerate())
    consumer = make_consumer()

    @consumer.listener()
    async def work(event):
        pass

    publish(driver, 10)
    worker = running(consumer)
    eventually(lambda: left_in(driver) == 0)
    worker.stop(DEADLINE_SECONDS)

    eventually(lambda: set(threading.enumerate()) <= before)


# --- outages ---------------------------------------------------------------------------------------


def test_the_worker_outlives_outages_of_the_broker(store, caplog):
    with UnreliableDriver() as driver:
        consumer = ExchangeMessageConsumer(
            "stock", "products", driver=driver, deduplication=store, queue=QueueOptions(wait_seconds=1)
        )
        seen = threading.Event()
        consumer.listener(name="see")(lambda event: seen.set())
        publish(driver, 1)
        worker = Worker(consumer, grace_seconds=10)
        worker.start()

        assert seen.wait(DEADLINE_SECONDS)
        assert worker.stop(DEADLINE_SECONDS)
    assert caplog.text.count("out of reach") == 3


def test_a_missing_queue_ends_the_worker_after_a_while(driver, make_consumer):
    consumer = make_consumer()
    consumer.listener()(print)
    driver.delete_queue(consumer.queue)

    worker = Worker(consumer, grace_seconds=10, give_up_seconds=0)

    assert worker.run() == 1


@pytest.mark.parametrize("mistake", [TypeError, AttributeError, KeyError, NameError])
def test_a_mistake_in_code_ends_the_worker_after_a_while_and_is_logged_with_its_traceback(
    driver, make_consumer, caplog, mistake
):
    class Mistaken(Middleware):
        def around_poll(self, queue, poll):
            raise mistake("a slip")

    consumer = make_consumer(middleware=[Mistaken()])
    consumer.listener()(print)

    worker = Worker(consumer, grace_seconds=10, give_up_seconds=0.1)

    assert worker.run() == 1
    assert "in around_poll" in caplog.text


def test_a_listener_that_exits_the_interpreter_only_fails(driver, make_consumer, running):
    consumer = make_consumer()
    attempts = []

    @consumer.listener()
    def leave(event):
        attempts.append(event)
        if len(attempts) == 1:
            raise SystemExit(3)

    publish(driver, 1)
    running(consumer)
    eventually(lambda: left_in(driver) == 0)

    assert len(attempts) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency must be"),
        ({"concurrency": 1.5}, "concurrency must be"),
        ({"grace_seconds": 0}, "grace_seconds must be"),
    ],
)
def test_numbers_out_of_bounds_are_refused(make_consumer, options, message):
    with pytest.raises(ConfigurationError, match=message):
        Worker(make_consumer(), **options)


def test_a_worker_needs_consumers_each_with_its_own_queue(make_consumer):
    with pytest.raises(ConfigurationError, match="at least one consumer"):
        Worker()
    with pytest.raises(ConfigurationError, match="each its own queue"):
        Worker(make_consumer(), make_consumer())
    with pytest.raises(ConfigurationError, match="takes consumers"):
        Worker("stock")


def test_a_consumer_without_a_listener_does_not_start(make_consumer):
    with pytest.raises(ConfigurationError, match="subscribe a listener first"):
        Worker(make_consumer()).start()
