"""A worker when things around it go wrong: slips of listeners, brokers that stall, drivers that are closed."""

import asyncio
import threading

import pytest

from consumer_options import grouped, key_of
from melange import (
    NO_DEDUPLICATION,
    AccessDeniedError,
    DeduplicationError,
    DriverConnectionError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    MemoryDeduplicationStore,
    Middleware,
    Worker,
)
from melange.deduplication.base import Claimed, ClaimRefusal
from melange.drivers.memory import InMemoryDriver
from melange.errors import Failure, LeaseLostError
from melange.messages import DEAD_LETTER_HEADER
from melange.testing.clock import ManualClock
from waiting import eventually
from watched_driver import begin_stop, left_in

DEADLINE_SECONDS = 30
EVENT = {"event_type_name": "ProductAdded"}


@pytest.fixture
def start():
    """Start a worker on a consumer of ``stock``, or ``stock.fifo``, with one listener."""
    workers = []

    def start(driver, listener, queue_name="stock", topic_name="products", worker=None, **options):
        options = {
            "wait_seconds": 0,
            "deduplication": MemoryDeduplicationStore(),
            "backoff": lambda attempts: 0,
            **options,
        }
        consumer = ExchangeMessageConsumer(queue_name, topic_name, driver=driver, **grouped(**options))
        consumer.listener(name="listener")(listener)
        workers.append(Worker(consumer, **{"grace_seconds": 10, **(worker or {})}))
        workers[-1].start()
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop(DEADLINE_SECONDS)


def publish(driver, *numbers, topic="products", **options):
    events = [{**EVENT, "number": number} for number in numbers]
    ExchangeMessagePublisher(topic, driver).publish_batch(events, **options)


# --- listeners -------------------------------------------------------------------------------------


class StoreForThreads(MemoryDeduplicationStore):
    """Has the steps of asynchronous listeners taken on threads."""

    answers_at_once = False


@pytest.mark.parametrize("make_store", [MemoryDeduplicationStore, StoreForThreads])
@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_asynchronous_listener_that_exits_fails_alone(start, leaving, make_store):
    driver = InMemoryDriver()
    attempts = []

    async def leave_at_first(event):
        attempts.append(event["number"])
        await asyncio.sleep(0)
        if len(attempts) == 1:
            raise leaving

    start(driver, leave_at_first, deduplication=make_store())
    publish(driver, 0)
    eventually(lambda: attempts == [0, 0])
    publish(driver, 1)

    eventually(lambda: left_in(driver) == 0)
    assert attempts == [0, 0, 1]


def test_an_asynchronous_listener_may_stop_its_worker(start):
    driver = InMemoryDriver()
    answers = []

    async def stop(event):
        answers.append(worker.stop())

    worker = start(driver, stop)
    publish(driver, 0)
    eventually(lambda: worker.has_ended)

    assert answers == [False]
    assert worker.stop()


def test_a_listener_that_always_exits_is_given_up_like_one_that_raises(start):
    driver = InMemoryDriver()
    attempts = []

    def leave(event):
        attempts.append(event["number"])
        raise SystemExit

    start(driver, leave, "stock.fifo", "products.fifo", max_attempts=3)
    publish(driver, 0, topic="products.fifo", message_group_id="a")

    eventually(lambda: left_in(driver, "stock-dlq.fifo") == 1)
    assert attempts == [0, 0, 0]


def test_the_dead_letter_counts_the_attempts_that_were_made_in_hand(start):
    driver = InMemoryDriver()

    def fail(event):
        raise ValueError

    start(driver, fail, "stock.fifo", "products.fifo", max_attempts=3)
    publish(driver, 0, topic="products.fifo", message_group_id="a")
    eventually(lambda: left_in(driver, "stock-dlq.fifo") == 1)

    (letter,) = driver.receive(driver.get_queue("stock-dlq.fifo"), 1, 0)
    assert '"attempts": 3' in letter.message.headers[DEAD_LETTER_HEADER]


def test_waiting_in_hand_for_somebody_else_is_no_attempt(start):
    driver, store = InMemoryDriver(), MemoryDeduplicationStore()
    queue = driver.declare_queue("stock.fifo")
    somebody_else = store.claim(key_of(queue, "listener", "id-1", {**EVENT, "number": 0}), "other", 3_600)
    attempts, asked = [], threading.Semaphore(0)

    class Asked(Middleware):
        def around_delivery(self, delivery, process):
            asked.release()
            return process()

    start(
        driver,
        lambda event, attempt: attempts.append(attempt),
        "stock.fifo",
        "products.fifo",
        deduplication=store,
        middleware=[Asked()],
    )
    publish(driver, 0, topic="products.fifo", message_group_id="a", message_id=lambda event: "id-1")
    for _ in range(3):
        assert asked.acquire(timeout=DEADLINE_SECONDS)
    store.abandon(somebody_else, began=False)

    eventually(lambda: attempts == [1])


@pytest.mark.parametrize(
    "backoff",
    [
        lambda attempts: None,
        lambda attempts: float("nan"),
        lambda attempts: float("inf"),
        lambda attempts: 1 / 0,
    ],
    ids=["none", "nan", "infinite", "raises"],
)
def test_a_backoff_that_returns_no_delay_holds_nothing_up(start, backoff, caplog):
    driver = InMemoryDriver()
    attempts = []

    def fail_at_first(event):
        attempts.append(event["number"])
        if len(attempts) == 1:
            raise ValueError

    start(driver, fail_at_first, "stock.fifo", "products.fifo", backoff=backoff)
    publish(driver, 0, 1, topic="products.fifo", message_group_id="a")

    eventually(lambda: left_in(driver, "stock.fifo") == 0)
    assert attempts == [0, 0, 1]
    assert "using the default" in caplog.text


# --- brokers ---------------------------------------------------------------------------------------


def test_a_driver_that_was_closed_ends_the_worker(start):
    driver = InMemoryDriver()
    started, gate = threading.Event(), threading.Event()

    def wait(event):
        started.set()
        gate.wait(DEADLINE_SECONDS)

    worker = start(driver, wait, "stock.fifo", "products.fifo")
    publish(driver, 0, 1, 2, topic="products.fifo", message_group_id="a")
    assert started.wait(DEADLINE_SECONDS)
    driver.close()
    gate.set()

    # Whether anything counts as left behind depends on what came first, the failed settling or the stop.
    worker.stop(DEADLINE_SECONDS)
    assert worker.has_ended


class KeepsWhatItGave(InMemoryDriver):
    """Can be reached by everyone who acknowledges, and by nobody who gives back."""

    def defer(self, deliveries, seconds):
        return [Failure(delivery, DriverConnectionError("away")) for delivery in deliveries]


def test_what_cannot_be_given_back_is_left_behind(start):
    driver = KeepsWhatItGave()
    started, gate = threading.Event(), threading.Event()

    def wait(event):
        started.set()
        gate.wait(DEADLINE_SECONDS)

    worker = start(driver, wait, ordered_by="event_type_name")
    publish(driver, 0, 1)
    assert started.wait(DEADLINE_SECONDS)
    eventually(lambda: driver.measure_queue(driver.get_queue("stock")).in_flight == 2)
    begin_stop(worker)
    gate.set()

    assert not worker.stop(DEADLINE_SECONDS)


class Stalling(InMemoryDriver):
    """Does not answer when something is to be given back."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def defer(self, deliveries, seconds):
        if seconds == 0:
            self.gate.wait(DEADLINE_SECONDS)
        return super().defer(deliveries, seconds)


def test_a_broker_that_stalls_does_not_stretch_the_grace(start):
    driver = Stalling()
    started, gate = threading.Event(), threading.Event()

    def wait(event):
        started.set()
        gate.wait(DEADLINE_SECONDS)

    worker = start(driver, wait, worker={"grace_seconds": 2}, ordered_by="event_type_name")
    publish(driver, 0, 1, 2)
    assert started.wait(DEADLINE_SECONDS)
    eventually(lambda: driver.measure_queue(driver.get_queue("stock")).in_flight == 3)
    begin_stop(worker)
    gate.set()

    assert not worker.stop(DEADLINE_SECONDS / 2)
    assert worker.has_ended
    driver.gate.set()


class Script(InMemoryDriver):
    """Raises one error after another when polled; the last one for ever."""

    def __init__(self, *errors):
        super().__init__()
        self.errors = list(errors)
        self.polls = 0

    def receive(self, queue, limit, wait_seconds, *, visibility_timeout_seconds=30):
        self.polls += 1
        raise self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]


def test_an_outage_before_it_does_not_shorten_the_patience_with_a_denied_access(start):
    driver = Script(
        DriverConnectionError("away"), AccessDeniedError("expired"), DriverConnectionError("away")
    )

    worker = start(driver, lambda event: None, worker={"give_up_seconds": 0.2})

    # The pause after the outage alone takes longer.
    eventually(lambda: driver.polls >= 3)
    assert not worker.has_ended


class Counting(InMemoryDriver):
    polls = 0

    def receive(self, *args, **options):
        self.polls += 1
        return super().receive(*args, **options)


@pytest.mark.parametrize(("grace_seconds", "wait_seconds"), [(5, 20), (0.5, 20), (25, 0)])
def test_an_idle_worker_does_not_spin(start, grace_seconds, wait_seconds):
    driver = Counting()

    worker = start(
        driver, lambda event: None, wait_seconds=wait_seconds, worker={"grace_seconds": grace_seconds}
    )
    eventually(lambda: driver.polls)
    threading.Event().wait(0.5)
    worker.stop(DEADLINE_SECONDS)

    assert driver.polls <= 100  # two are right, a machine may be slow, and a loop that spins makes thousands


class LosesLeases(InMemoryDriver):
    """Says of each renewal that the lease is lost, long before the deadline."""

    def defer(self, deliveries, seconds):
        self.renewals = len(deliveries)
        return [Failure(delivery, LeaseLostError("gone")) for delivery in deliveries]


@pytest.mark.parametrize("ending", [lambda: None, lambda: 1 / 0], ids=["succeeds", "fails for good"])
def test_what_the_broker_calls_lost_is_neither_acknowledged_nor_set_aside(start, ending):
    driver = LosesLeases()
    ended = threading.Event()

    def outlast_the_lease(event, lease_lost):
        eventually(lease_lost)
        ended.set()
        ending()

    worker = start(
        driver,
        outlast_the_lease,
        visibility_timeout_seconds=8,
        max_attempts=1,
        deduplication=NO_DEDUPLICATION,
    )
    publish(driver, 0)
    assert ended.wait(DEADLINE_SECONDS)
    worker.stop(DEADLINE_SECONDS)

    assert left_in(driver) == 1
    assert left_in(driver, "stock-dlq") == 0


class BreaksWhenAcknowledging(InMemoryDriver):
    is_broken = True

    def acknowledge(self, deliveries):
        if self.is_broken:
            self.is_broken = False
            raise RuntimeError("a slip of the driver")
        return super().acknowledge(deliveries)


def test_a_group_goes_on_after_its_head_could_not_be_settled(start):
    driver = BreaksWhenAcknowledging()
    seen = []

    start(
        driver,
        lambda event: seen.append(event["number"]),
        "stock.fifo",
        "products.fifo",
        visibility_timeout_seconds=1,
    )
    publish(driver, 0, 1, 2, topic="products.fifo", message_group_id="a")

    eventually(lambda: left_in(driver, "stock.fifo") == 0)
    assert seen == [0, 1, 2]


def test_a_worker_that_gets_no_threads_ends(start, monkeypatch):
    start_thread = threading.Thread.start

    def refuse_polls(thread):
        if thread.name.startswith("melange-poll"):
            raise RuntimeError("can't start new thread")
        start_thread(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_polls)

    worker = start(InMemoryDriver(), lambda event: None)

    assert not worker.stop(DEADLINE_SECONDS)
    assert worker.has_ended


class FailsToAcknowledgeOnce(InMemoryDriver):
    has_failed = False

    def acknowledge(self, deliveries):
        if self.has_failed:
            return super().acknowledge(deliveries)
        self.has_failed = True
        return [Failure(delivery, DriverConnectionError("away")) for delivery in deliveries]


def test_nothing_of_a_group_overtakes_a_message_whose_acknowledgement_failed(start):
    driver = FailsToAcknowledgeOnce()
    seen = []

    start(
        driver,
        lambda event: seen.append(event["number"]),
        "stock.fifo",
        "products.fifo",
        visibility_timeout_seconds=3,
        deduplication=NO_DEDUPLICATION,
    )
    publish(driver, 0, 1, 2, topic="products.fifo", message_group_id="a")

    eventually(lambda: left_in(driver, "stock.fifo") == 0)
    assert seen == [0, 0, 1, 2]


def test_followers_that_were_given_back_leave_their_slots(start):
    driver = FailsToAcknowledgeOnce()
    both = threading.Barrier(2)

    def meet(event):
        if event["number"] >= 2:
            both.wait(DEADLINE_SECONDS)

    start(
        driver, meet, "stock.fifo", "products.fifo", visibility_timeout_seconds=1, worker={"concurrency": 2}
    )
    publish(driver, 0, 1, topic="products.fifo", message_group_id="a")
    eventually(lambda: left_in(driver, "stock.fifo") == 0)
    publish(driver, 2, 3, topic="products.fifo", message_group_id=lambda event: str(event["number"]))

    eventually(lambda: left_in(driver, "stock.fifo") == 0)
    assert left_in(driver, "stock-dlq.fifo") == 0
    assert not both.broken


def test_those_who_wait_behind_a_slow_head_keep_their_leases(start):
    driver = InMemoryDriver()
    seen = []

    def slow_at_first(event, receive_count):
        if not seen:
            threading.Event().wait(5)
        seen.append((event["number"], receive_count))

    start(driver, slow_at_first, "stock.fifo", "products.fifo", visibility_timeout_seconds=3)
    publish(driver, 0, 1, 2, topic="products.fifo", message_group_id="a")

    eventually(lambda: left_in(driver, "stock.fifo") == 0)
    assert seen == [(0, 1), (1, 1), (2, 1)]


class CountsCalls(InMemoryDriver):
    def __init__(self):
        super().__init__()
        self.acknowledged, self.looked_up = [], 0

    def acknowledge(self, deliveries):
        self.acknowledged.append(len(deliveries))
        return super().acknowledge(deliveries)

    def get_queue(self, name):
        self.looked_up += 1
        return super().get_queue(name)


def test_acknowledgements_travel_together_and_a_poll_looks_nothing_up(start):
    driver = CountsCalls()
    together = threading.Barrier(10)

    worker = start(driver, lambda event: together.wait(DEADLINE_SECONDS), worker={"concurrency": 10})
    looked_up = driver.looked_up
    publish(driver, *range(100))
    eventually(lambda: sum(driver.acknowledged) == 100)
    worker.stop(DEADLINE_SECONDS)

    assert len(driver.acknowledged) <= 50
    assert driver.looked_up == looked_up


class AcknowledgesLate(InMemoryDriver):
    def __init__(self):
        super().__init__()
        self.asked, self.gate = threading.Event(), threading.Event()

    def acknowledge(self, deliveries):
        self.asked.set()
        self.gate.wait(DEADLINE_SECONDS)
        return super().acknowledge(deliveries)


def test_what_is_finished_when_the_worker_stops_is_acknowledged(start):
    driver = AcknowledgesLate()
    finished = []

    worker = start(driver, lambda event: finished.append(event["number"]))
    publish(driver, 0)
    assert driver.asked.wait(DEADLINE_SECONDS)
    publish(driver, 1, 2, 3)
    eventually(lambda: len(finished) == 4)
    worker.stop(0)
    threading.Timer(0.5, driver.gate.set).start()  # when nothing but the acknowledgements is left to do

    assert worker.stop(DEADLINE_SECONDS)
    assert left_in(driver) == 0


class AwayForAWhile(MemoryDeduplicationStore):
    is_away = False

    def check(self):
        if self.is_away:
            raise DeduplicationError("away")

    def claim(self, key, token, lease_seconds):
        self.check()
        return super().claim(key, token, lease_seconds)


def test_an_outage_of_the_store_uses_up_no_receives(start):
    driver, store = InMemoryDriver(), AwayForAWhile()
    counts = []

    worker = start(driver, lambda event, receive_count: counts.append(receive_count), deduplication=store)
    eventually(lambda: worker.health().ready)
    store.is_away = True
    publish(driver, 0)
    eventually(lambda: not worker.health().ready)
    threading.Event().wait(4)
    store.is_away = False

    eventually(lambda: left_in(driver) == 0)
    (count,) = counts
    assert count <= 3  # one more for each poll that was open when the outage was noticed


class LosesAnAnswer(AwayForAWhile):
    """Grants the first claim, loses the answer, and is unavailable then."""

    def __init__(self):
        super().__init__()
        self.granted = []
        self.refused_checks = 0

    def check(self):
        self.refused_checks += self.is_away
        super().check()

    def claim(self, key, token, lease_seconds):
        answer = super().claim(key, token, lease_seconds)
        if not self.granted:
            self.granted.append(key)
            self.is_away = True
            raise DeduplicationError("no answer")
        return answer


def test_a_stop_releases_a_claim_whose_answer_was_lost(start):
    driver, store = InMemoryDriver(), LosesAnAnswer()
    worker = start(driver, lambda event: None, deduplication=store)
    publish(driver, 0)
    eventually(lambda: store.refused_checks)

    store.is_away = False
    assert worker.stop(DEADLINE_SECONDS)

    # Done, if the worker was quick enough to see that the store is back.
    (key,) = store.granted
    assert store.claim(key, "next", 30) in {Claimed(key, "next", 1), ClaimRefusal.DONE}


def test_the_claim_is_kept_with_the_lease_so_that_a_copy_waits(start):
    driver = InMemoryDriver()
    runs = []

    def slow(event):
        runs.append(event["number"])
        threading.Event().wait(5)

    start(driver, slow, visibility_timeout_seconds=3)
    for _ in range(2):
        ExchangeMessagePublisher("products", driver).publish({**EVENT, "number": 0}, message_id="id-1")

    eventually(lambda: left_in(driver) == 0)
    assert runs == [0]


def test_a_listener_learns_that_its_claim_was_taken_over(start):
    driver, store_clock = InMemoryDriver(), ManualClock()
    store = MemoryDeduplicationStore(clock=store_clock)
    learned = threading.Event()

    def overtaken(event, message_id, lease_lost):
        store_clock.advance(3_600)
        key = key_of(driver.get_queue("stock"), "listener", message_id, event)
        assert isinstance(store.claim(key, "other", 3_600), Claimed)
        eventually(lease_lost)
        learned.set()

    start(driver, overtaken, visibility_timeout_seconds=2, deduplication=store)
    publish(driver, 0)

    assert learned.wait(DEADLINE_SECONDS)


class Exiting(Middleware):
    """Ends the thread, if it can, before or after it settles."""

    def __init__(self, *, settles: bool) -> None:
        self.settles = settles

    def around_settle(self, queue, outcomes, settle):
        if self.settles:
            settle()
        raise SystemExit


@pytest.mark.parametrize("settles", [True, False], ids=["after", "before"])
@pytest.mark.parametrize(
    ("queue_name", "topic_name"), [("stock", "products"), ("stock.fifo", "products.fifo")]
)
def test_a_hook_that_exits_around_settling_keeps_no_message_in_flight(start, queue_name, topic_name, settles):
    with InMemoryDriver() as driver:
        seen = []
        worker = start(
            driver,
            lambda event: seen.append(event["number"]),
            queue_name,
            topic_name,
            middleware=[Exiting(settles=settles)],
        )
        for number in range(5):
            publish(driver, number, topic=topic_name, message_group_id="group")

        eventually(lambda: left_in(driver, queue_name) == 0 and len(seen) == 5)
        eventually(lambda: worker.health().queues[0].in_flight == 0)

        assert sorted(seen) == [0, 1, 2, 3, 4]
        assert worker.stop()


class EndsNoWaits(InMemoryDriver):
    """Raises what no driver should, once it may."""

    is_failing = False

    def end_waits(self, queue):
        if self.is_failing:
            raise KeyError(queue.name)
        super().end_waits(queue)


def test_a_driver_that_fails_to_end_a_poll_keeps_nothing_from_being_released(start):
    with EndsNoWaits() as driver:
        failed = threading.Event()

        def fail(event):
            failed.set()
            raise ValueError

        worker = start(
            driver, fail, "stock.fifo", "products.fifo", wait_seconds=1, backoff=lambda attempts: 1_000
        )
        publish(driver, 1, 2, topic="products.fifo", message_group_id="group")
        assert failed.wait(DEADLINE_SECONDS)
        driver.is_failing = True

        assert worker.stop(DEADLINE_SECONDS)
        assert worker.health().queues[0].in_flight == 0
