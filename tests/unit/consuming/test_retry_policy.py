"""How long a failing listener is tried again, and what is never tried again."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from melange import (
    Backoff,
    ConfigurationError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueOptions,
    Retry,
    RetryPolicy,
    Worker,
)
from melange.drivers.memory import InMemoryDriver
from melange.messages import DEAD_LETTER_HEADER
from waiting import eventually
from watched_driver import left_in

EVENT = {"event_type_name": "ProductAdded"}
OUTAGE_SECONDS = 30 * 60
DEADLINE_SECONDS = 30


# --- the defaults outlast half an hour -------------------------------------------------------------


def total_seconds(backoff: Backoff) -> float:
    """Return the time from the first attempt to the last, with the default number of attempts."""
    return sum(backoff(attempt) for attempt in range(1, RetryPolicy().max_attempts))


def test_by_default_the_last_attempt_comes_after_half_an_hour_at_the_earliest_and_after_two_at_the_latest():
    default = RetryPolicy().backoff

    assert total_seconds(replace(default, random=lambda: 0.0)) > OUTAGE_SECONDS
    assert total_seconds(replace(default, random=lambda: 1.0)) < 2 * 3600
    for seed in range(200):
        chance = random.Random(seed).random
        assert OUTAGE_SECONDS < total_seconds(replace(default, random=chance)) < 2 * 3600


# The shortest delays that the default can have: the worst case for an outage.
IMPATIENT = Backoff(random=lambda: 0.0)


@pytest.mark.parametrize("suffix", ["", ".fifo"], ids=["standard", "fifo"])
def test_half_an_hour_of_a_downstream_outage_dead_letters_nothing(driver, clock, make_consumer, suffix):
    consumer = make_consumer(
        f"stock{suffix}", f"products{suffix}", backoff=IMPATIENT, max_attempts=RetryPolicy().max_attempts
    )
    runs, done = [], []

    @consumer.listener()
    def write(event):
        runs.append(event["number"])
        if clock.monotonic() < OUTAGE_SECONDS:
            raise ConnectionError("the database is unavailable")
        done.append(event["number"])

    publish_to(driver, f"products{suffix}", count=5)

    while left_in(driver, f"stock{suffix}") and clock.monotonic() < 2 * OUTAGE_SECONDS:
        while consumer.consume_event():
            pass
        clock.advance(1)

    assert sorted(done) == list(range(5))
    assert len(runs) > 5 * 15
    assert left_in(driver, f"stock-dlq{suffix}") == 0


class CountsDeferrals(InMemoryDriver):
    deferrals = 0

    def defer(self, deliveries, seconds):
        failures = super().defer(deliveries, seconds)
        self.deferrals += 1
        return failures


@pytest.mark.parametrize("suffix", ["", ".fifo"], ids=["standard", "fifo"])
def test_a_worker_dead_letters_nothing_in_half_an_hour_of_a_downstream_outage(clock, store, suffix):
    driver = CountsDeferrals(clock=clock)
    consumer = ExchangeMessageConsumer(
        f"stock{suffix}",
        f"products{suffix}",
        driver=driver,
        deduplication=store,
        retry=RetryPolicy(backoff=IMPATIENT),
        queue=QueueOptions(wait_seconds=0, visibility_timeout_seconds=7_200),
    )
    attempts = []

    @consumer.listener()
    def write(event, attempt):
        attempts.append(attempt)
        if clock.monotonic() < OUTAGE_SECONDS:
            raise ConnectionError("the database is unavailable")

    def waits_for_its_retry() -> bool:
        # The head of a group on the worker's timer, beside the thread that renews leases; others at the broker.
        return clock.waiting == 2 if suffix else driver.deferrals == len(attempts)

    worker = Worker(consumer, grace_seconds=10)
    worker.start()
    publish_to(driver, f"products{suffix}", count=1)
    while clock.monotonic() < OUTAGE_SECONDS:
        made = len(attempts) + 1
        eventually(lambda number=made: len(attempts) == number)
        eventually(waits_for_its_retry)
        clock.advance(max(1.0, IMPATIENT(made)))
    eventually(lambda: left_in(driver, f"stock{suffix}") == 0)
    worker.stop(DEADLINE_SECONDS)

    assert len(attempts) > 15
    assert attempts == list(range(1, len(attempts) + 1))
    assert left_in(driver, f"stock-dlq{suffix}") == 0


def publish_to(driver, topic_name, *, count):
    publisher = ExchangeMessagePublisher(topic_name, driver)
    for number in range(count):
        group = {"message_group_id": f"group-{number}"} if topic_name.endswith(".fifo") else {}
        publisher.publish({**EVENT, "number": number}, **group)


# --- what is never tried again ---------------------------------------------------------------------


class InvalidAddress(ValueError):
    """What no retry can mend."""


@pytest.mark.parametrize("raised", [ValueError("no"), InvalidAddress("no")], ids=["the type", "a subclass"])
def test_what_can_never_succeed_is_dead_lettered_at_once(
    driver, make_consumer, publisher, dead_letters, raised
):
    consumer = make_consumer(reject_on=(ValueError,))
    runs = []

    @consumer.listener(name="ship")
    def ship(event):
        runs.append(event)
        raise raised

    publisher.publish(EVENT)
    consumer.consume_event()

    assert len(runs) == 1
    (dead_letter,) = dead_letters()
    note = json.loads(dead_letter.headers[DEAD_LETTER_HEADER])
    assert note["attempts"] == 1
    assert f"{type(raised).__name__}: no" in note["reason"]


def test_other_exceptions_are_tried_again(driver, clock, make_consumer, publisher):
    consumer = make_consumer(reject_on=(ValueError,))
    runs = []

    @consumer.listener()
    def ship(event):
        runs.append(event)
        if len(runs) == 1:
            raise LookupError("no")

    publisher.publish(EVENT)
    for _ in range(2):
        consumer.consume_event()
        clock.advance(10)

    assert len(runs) == 2
    assert left_in(driver, "stock-dlq") == 0


def test_a_retry_is_asked_for_and_never_rejected(driver, clock, make_consumer, publisher):
    consumer = make_consumer(reject_on=(Exception,))
    runs = []

    @consumer.listener()
    def ship(event):
        runs.append(event)
        if len(runs) == 1:
            raise Retry(5)

    publisher.publish(EVENT)
    for _ in range(2):
        consumer.consume_event()
        clock.advance(5)

    assert len(runs) == 2
    assert left_in(driver, "stock-dlq") == 0


def test_one_exception_type_needs_no_tuple():
    assert RetryPolicy(reject_on=ValueError).reject_on == (ValueError,)


@pytest.mark.parametrize("max_attempts", [0, -1, True, 1.5, "3", None, 1001])
def test_a_number_of_attempts_out_of_bounds_is_refused(max_attempts):
    with pytest.raises(ConfigurationError, match=f"max_attempts.*1 to 1000, not {max_attempts!r}"):
        RetryPolicy(max_attempts=max_attempts)


@pytest.mark.parametrize(
    "reject_on",
    ["x", ("x",), (ValueError("no"),), (int,), (KeyboardInterrupt,), [ValueError], None],
    ids=repr,
)
def test_what_is_no_exception_type_is_refused(reject_on):
    with pytest.raises(ConfigurationError, match="reject_on= takes exception types in a tuple"):
        RetryPolicy(reject_on=reject_on)


@pytest.mark.parametrize("backoff", [None, 10, "exponential"])
def test_a_backoff_that_is_no_function_is_refused(backoff):
    with pytest.raises(ConfigurationError, match="backoff= takes a function"):
        RetryPolicy(backoff=backoff)
