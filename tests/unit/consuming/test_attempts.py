"""Attempts are runs of a listener: what uses one, and what does not."""

from __future__ import annotations

import contextlib
import threading

import pytest

from consumer_options import key_of
from melange import (
    NO_DEAD_LETTER_QUEUE,
    NO_DEDUPLICATION,
    DeduplicationError,
    DriverConnectionError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    MemoryDeduplicationStore,
    Middleware,
    QueueOptions,
    Reject,
    RetryPolicy,
    Worker,
)
from melange.drivers.memory import InMemoryDriver
from waiting import eventually
from watched_driver import left_in

EVENT = {"event_type_name": "ProductAdded"}
DEADLINE_SECONDS = 30


class Runs(list[tuple[int, int]]):
    """A listener that notes ``attempt`` and ``receive_count`` of its runs, and fails ``failures`` times."""

    __qualname__ = "Runs"

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.failures = failures

    def __call__(self, event, attempt, receive_count):
        self.append((attempt, receive_count))
        if len(self) <= self.failures:
            raise ConnectionError("the database is unavailable")

    @property
    def attempts(self) -> list[int]:
        return [attempt for attempt, _ in self]


def listen(consumer: ExchangeMessageConsumer, runs: Runs) -> Runs:
    consumer.listener(name="Runs")(runs)
    return runs


# --- what uses no attempt --------------------------------------------------------------------------


class BrieflyUnavailable(MemoryDeduplicationStore):
    """Does not answer the first four claims, and seems available in between."""

    failed = 0

    def claim(self, key, token, lease_seconds):
        if self.failed < 4:
            self.failed += 1
            raise DeduplicationError("the store is unavailable")
        return super().claim(key, token, lease_seconds)


def test_after_four_outages_of_the_store_the_first_run_is_the_first_attempt(
    driver, clock, make_consumer, publisher, dead_letters
):
    consumer = make_consumer(deduplication=BrieflyUnavailable(clock=clock), max_attempts=5)
    runs = listen(consumer, Runs(failures=4))
    publisher.publish(EVENT)

    for _ in range(4):
        with pytest.raises(DeduplicationError):
            consumer.consume_event()
    for _ in range(5):
        consumer.consume_event()
        clock.advance(10)

    assert runs == [(1, 5), (2, 6), (3, 7), (4, 8), (5, 9)]
    assert dead_letters() == []
    assert left_in(driver) == 0


def test_waiting_for_a_claim_of_another_process_uses_no_attempt(
    driver, clock, store, make_consumer, publisher, dead_letters
):
    consumer = make_consumer(max_attempts=3)
    runs = listen(consumer, Runs(failures=2))
    message_id = publisher.publish(EVENT)
    busy = store.claim(key_of(consumer.queue, "Runs", message_id, EVENT), "another process", 25)

    for _ in range(2):
        consumer.consume_event()
        clock.advance(11)
    assert runs == []
    store.abandon(busy, began=False)
    for _ in range(3):
        consumer.consume_event()
        clock.advance(11)

    assert runs.attempts == [1, 2, 3]
    assert dead_letters() == []
    assert left_in(driver) == 0


def test_a_short_backoff_does_not_use_up_the_receives_of_a_message_that_waits_for_a_claim(
    driver, clock, store, make_consumer, publisher, dead_letters
):
    consumer = make_consumer(backoff=lambda attempt: 0)
    runs = listen(consumer, Runs())
    message_id = publisher.publish(EVENT)
    busy = store.claim(key_of(consumer.queue, "Runs", message_id, EVENT), "another process", 600)

    for _ in range(600):
        consumer.consume_event()
        clock.advance(1)
    store.abandon(busy, began=False)
    clock.advance(30)
    consumer.consume_event()

    assert runs.attempts == [1]
    assert runs[0][1] < 50
    assert dead_letters() == []


def test_a_short_backoff_does_not_use_up_the_receives_of_a_message_while_a_hook_fails(
    driver, clock, make_consumer, publisher, dead_letters
):
    class Unavailable(Middleware):
        def around_listener(self, call, run):
            if clock.monotonic() < 600:
                raise ConnectionError("the hook's service is unavailable")
            return run(call)

    consumer = make_consumer(backoff=lambda attempt: 0, middleware=[Unavailable()])
    runs = listen(consumer, Runs())
    publisher.publish(EVENT)

    for _ in range(660):
        consumer.consume_event()
        clock.advance(1)

    assert runs.attempts == [1]
    assert dead_letters() == []


def test_messages_that_wait_for_slow_neighbours_keep_their_leases(driver, clock, make_consumer, publisher):
    consumer = make_consumer(visibility_timeout_seconds=30)
    runs = []

    def renewals_are_done():
        return clock.waiting == 1 and not any(one.name == "melange-renewal" for one in threading.enumerate())

    @consumer.listener()
    def slow(event, attempt, receive_count):
        runs.append((event["number"], attempt, receive_count))
        for _ in range(4):
            clock.advance(3)
            eventually(renewals_are_done)

    publisher.publish_batch([{**EVENT, "number": number} for number in range(10)])

    settled = consumer.consume_event()

    assert settled == 10
    assert runs == [(number, 1, 1) for number in range(10)]
    assert left_in(driver) == left_in(driver, "stock-dlq") == 0


class LosesAnswers(MemoryDeduplicationStore):
    """Grants claims, and loses the first answers."""

    lost = 0

    def claim(self, key, token, lease_seconds):
        claimed = super().claim(key, token, lease_seconds)
        if self.lost < 3:
            self.lost += 1
            raise DeduplicationError("the answer was lost")
        return claimed


def test_a_claim_with_a_lost_answer_uses_no_attempt(clock, make_consumer, publisher):
    consumer = make_consumer(deduplication=LosesAnswers(clock=clock))
    runs = listen(consumer, Runs())
    publisher.publish(EVENT)

    for _ in range(3):
        with pytest.raises(DeduplicationError):
            consumer.consume_event()
    consumer.consume_event()

    assert runs == [(1, 4)]


class RefusesClaims(MemoryDeduplicationStore):
    """Answers that it is available, and refuses to write until its clock says 30 minutes: a database without space."""

    def claim(self, key, token, lease_seconds):
        if self._clock.monotonic() < 1_800:
            raise DeduplicationError("read-only")
        return super().claim(key, token, lease_seconds)


def test_a_store_that_refuses_claims_for_half_an_hour_does_not_use_up_the_brokers_receives(
    driver, clock, make_consumer, publisher
):
    consumer = make_consumer(deduplication=RefusesClaims(clock=clock))
    runs = listen(consumer, Runs())
    publisher.publish(EVENT)

    while not runs and clock.monotonic() < 3_600:
        with contextlib.suppress(DeduplicationError):
            consumer.consume_event()
        clock.advance(1)

    assert runs.attempts == [1]
    assert left_in(driver) == left_in(driver, "stock-dlq") == 0


def test_receives_are_no_reason_to_dead_letter_unread_while_the_store_is_done_without(
    driver, clock, make_consumer, publisher, dead_letters
):
    consumer = make_consumer(
        deduplication=LosesAnswers(clock=clock), on_unavailable="process", max_attempts=3
    )
    runs = listen(consumer, Runs())
    publisher.publish(EVENT)
    for _ in range(5):
        driver.defer(driver.receive(consumer.queue, 10, 0), 0)

    consumer.consume_event()

    assert len(runs) == 1
    assert dead_letters() == []


def test_a_claim_with_a_lost_answer_holds_nothing_up_where_the_store_is_not_waited_for(
    clock, make_consumer, publisher
):
    consumer = make_consumer(deduplication=LosesAnswers(clock=clock), on_unavailable="process")
    runs = listen(consumer, Runs(failures=3))
    publisher.publish(EVENT)

    for _ in range(4):
        consumer.consume_event()
        clock.advance(10)

    # While the store does not answer, receives are counted; after that, what the store has seen.
    assert runs == [(1, 1), (2, 2), (3, 3), (1, 4)]


def test_a_hook_that_fails_before_the_listener_uses_no_attempt(clock, make_consumer, publisher):
    class Fails(Middleware):
        times = 0

        def around_listener(self, call, run):
            self.times += 1
            if self.times <= 3:
                raise RuntimeError("no connection")
            return run(call)

    consumer = make_consumer(middleware=[Fails()], max_attempts=2)
    runs = listen(consumer, Runs())
    publisher.publish(EVENT)

    for _ in range(4):
        consumer.consume_event()
        clock.advance(10)

    assert runs == [(1, 4)]


# --- what uses one ---------------------------------------------------------------------------------


def test_a_process_that_died_in_a_run_has_used_an_attempt(clock, store, make_consumer, publisher):
    consumer = make_consumer()
    runs = listen(consumer, Runs())
    message_id = publisher.publish(EVENT)
    store.claim(key_of(consumer.queue, "Runs", message_id, EVENT), "a process that dies", 30)
    clock.advance(31)

    consumer.consume_event()

    assert runs.attempts == [2]


def test_a_message_that_killed_its_process_in_each_attempt_is_dead_lettered_without_another_run(
    driver, clock, store, make_consumer, publisher, dead_letters
):
    consumer = make_consumer(max_attempts=3)
    runs = listen(consumer, Runs())
    message_id = publisher.publish(EVENT)
    for number in range(3):
        store.claim(key_of(consumer.queue, "Runs", message_id, EVENT), f"process {number}", 30)
        clock.advance(31)

    consumer.consume_event()

    assert runs == []
    (dead_letter,) = dead_letters()
    assert "3 attempts failed or did not come to an end" in dead_letter.headers["melange-dead-letter"]
    assert left_in(driver) == 0


@pytest.mark.parametrize("give_up", [ConnectionError("unavailable"), Reject("no")], ids=["fails", "rejects"])
def test_a_dead_letter_that_is_moved_back_starts_with_the_first_attempt(
    driver, clock, make_consumer, publisher, dead_letters, give_up
):
    consumer = make_consumer(max_attempts=3)
    attempts = []

    @consumer.listener()
    def fail(event, attempt):
        attempts.append(attempt)
        if len(attempts) == 3:
            raise give_up
        if len(attempts) < 5:
            raise ConnectionError("unavailable")

    publisher.publish(EVENT)
    for _ in range(3):
        consumer.consume_event()
        clock.advance(10)
    (dead_letter,) = dead_letters()
    driver.send(consumer.queue, [dead_letter])
    for _ in range(2):
        consumer.consume_event()
        clock.advance(10)

    assert attempts == [1, 2, 3, 1, 2]
    assert dead_letters() == []
    assert left_in(driver) == 0


class RefusesAcknowledgements(InMemoryDriver):
    refused = 0

    def acknowledge(self, deliveries):
        if self.refused < 2:
            self.refused += 1
            raise DriverConnectionError("throttled")
        return super().acknowledge(deliveries)


def test_a_dead_letter_that_is_not_acknowledged_does_not_run_again(clock, store):
    driver = RefusesAcknowledgements(clock=clock)
    consumer = ExchangeMessageConsumer(
        "stock",
        "products",
        driver=driver,
        deduplication=store,
        queue=QueueOptions(wait_seconds=0),
        retry=RetryPolicy(max_attempts=2, backoff=lambda attempts: 10),
    )
    runs = listen(consumer, Runs(failures=9))
    ExchangeMessagePublisher("products", driver).publish(EVENT)

    for _ in range(6):
        consumer.consume_event()
        clock.advance(30)

    assert runs.attempts == [1, 2]
    assert left_in(driver) == 0
    assert left_in(driver, "stock-dlq") == 3  # one for each time that it came back


def test_each_listener_has_attempts_of_its_own(clock, make_consumer, publisher):
    consumer = make_consumer()
    quick, slow = Runs(), Runs(failures=1)
    consumer.listener(name="quick")(quick)
    consumer.listener(name="slow")(slow)
    publisher.publish(EVENT)

    consumer.consume_event()
    clock.advance(10)
    consumer.consume_event()

    assert quick.attempts == [1]
    assert slow.attempts == [1, 2]


def test_a_listener_without_attempts_left_does_not_run_while_another_is_waited_for(
    driver, clock, store, make_consumer, publisher, dead_letters
):
    consumer = make_consumer(max_attempts=2)
    failing, waiting = Runs(failures=9), Runs()
    consumer.listener(name="failing")(failing)
    consumer.listener(name="waiting")(waiting)
    message_id = publisher.publish(EVENT)
    store.claim(key_of(consumer.queue, "waiting", message_id, EVENT), "another process", 45)

    for _ in range(12):
        consumer.consume_event()
        clock.advance(10)

    assert failing.attempts == [1, 2]
    assert waiting.attempts == [2]  # the other process did not finish
    (dead_letter,) = dead_letters()
    assert "2 attempts failed or did not come to an end" in dead_letter.headers["melange-dead-letter"]
    assert left_in(driver) == 0


def test_without_a_store_receives_count_as_attempts(driver, clock, make_consumer, publisher, dead_letters):
    consumer = make_consumer(deduplication=NO_DEDUPLICATION, max_attempts=3)
    runs = listen(consumer, Runs(failures=9))
    publisher.publish(EVENT)
    driver.defer(driver.receive(consumer.queue, 10, 0), 0)  # a deployment, for example

    for _ in range(3):
        consumer.consume_event()
        clock.advance(10)

    assert runs == [(2, 2), (3, 3)]
    assert len(dead_letters()) == 1


# --- deployments -----------------------------------------------------------------------------------


def test_deployments_use_no_attempts_of_a_failing_head_and_of_those_behind_it(driver, clock, store):
    runs: dict[str, list[int]] = {"head": [], "follower": []}

    def deploy() -> Worker:
        consumer = ExchangeMessageConsumer(
            "stock.fifo",
            "products.fifo",
            driver=driver,
            deduplication=store,
            queue=QueueOptions(wait_seconds=0, visibility_timeout_seconds=10_000),
            retry=RetryPolicy(max_attempts=6, backoff=lambda attempts: 3_600),
        )

        @consumer.listener(name="Runs")
        def run(event, attempt):
            runs[event["name"]].append(attempt)
            if attempt < {"head": 6, "follower": 2}[event["name"]]:
                raise ConnectionError("the database is unavailable")

        worker = Worker(consumer, grace_seconds=10)
        worker.start()
        return worker

    def is_waiting_for_its_retry() -> bool:
        return clock.waiting == 2  # the worker's timer, and who renews its leases

    worker = deploy()
    publish = ExchangeMessagePublisher("products.fifo", driver).publish
    for name in ("head", "follower"):
        publish({**EVENT, "name": name}, message_group_id="A")
    for made in range(1, 5):
        eventually(lambda number=made: len(runs["head"]) == number)
        eventually(is_waiting_for_its_retry)
        clock.advance(600)
        assert worker.stop(DEADLINE_SECONDS)
        worker = deploy()
        eventually(lambda current=worker: current.health().ready)
        assert len(runs["head"]) == made  # what was left of the delay is waited for
        clock.advance(3_000)
    for name, attempts in [("head", 6), ("follower", 2)]:
        eventually(is_waiting_for_its_retry)
        clock.advance(3_600)
        eventually(lambda name=name, attempts=attempts: len(runs[name]) == attempts)
    eventually(lambda: left_in(driver, "stock.fifo") == 0)

    assert worker.stop(DEADLINE_SECONDS)
    assert runs == {"head": [1, 2, 3, 4, 5, 6], "follower": [1, 2]}
    assert left_in(driver, "stock-dlq.fifo") == 0


@pytest.mark.parametrize("deduplication", [None, NO_DEDUPLICATION], ids=["attempts", "receives"])
@pytest.mark.parametrize(
    ("queue_name", "topic_name", "option"),
    [
        ("stock.fifo", "products.fifo", {"on_reject": "block"}),
        ("stock", "products", {"dead_letter_queue_name": NO_DEAD_LETTER_QUEUE}),
    ],
    ids=["blocks its group", "no dead-letter queue"],
)
def test_a_rejected_message_that_stays_is_tried_until_it_succeeds(
    driver, clock, make_consumer, queue_name, topic_name, option, deduplication
):
    consumer = make_consumer(queue_name, topic_name, max_attempts=2, deduplication=deduplication, **option)
    runs = []

    @consumer.listener(name="listen")
    def fail_four_times(event, attempt):
        runs.append(attempt)
        if len(runs) < 5:
            raise ValueError

    ExchangeMessagePublisher(topic_name, driver).publish(
        {"event_type_name": "ProductAdded"}, message_group_id="group"
    )
    for _ in range(6):
        consumer.consume_event()
        clock.advance(1_000)

    assert runs == ([1, 2, 1, 2, 1] if deduplication is None else [1, 2, 3, 4, 5])
    assert driver.list_messages(consumer.queue) == []


def test_a_message_that_stays_does_not_run_again_after_processes_died_in_its_attempts(
    driver, clock, store, make_consumer, publisher
):
    consumer = make_consumer(max_attempts=2, dead_letter_queue_name=NO_DEAD_LETTER_QUEUE)
    runs = []
    consumer.listener(name="listen")(runs.append)
    event = {"event_type_name": "ProductAdded"}
    publisher.publish(event, message_id="poison")
    for number in range(2):  # each ends without a word
        store.claim(key_of(consumer.queue, "listen", "poison", event), f"dead {number}", 1)
        clock.advance(2)

    for _ in range(3):
        consumer.consume_event()
        clock.advance(1_000)

    assert runs == []
    assert len(driver.list_messages(consumer.queue)) == 1
