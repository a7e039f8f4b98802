"""Listeners and messages that do what nobody would expect: each is settled, and its neighbours are too."""

import json
import logging

import pytest

from melange import DeduplicationError, Reject, Retry, RetryPolicy, Worker
from melange.consuming.ordering import lane_of
from melange.consuming.outcomes import DeadLetter, Defer
from melange.consuming.worker import ExchangeMessageConsumer
from melange.drivers.memory import InMemoryDriver
from melange.messages import DEAD_LETTER_HEADER, Message
from waiting import eventually

EVENT = {"event_type_name": "ProductAdded"}


class NotText:
    def __str__(self):
        raise ValueError("no text")


class NotTextEither(Exception):
    def __str__(self):
        raise ValueError("no text")


class RejectWithoutReason(Reject):
    def __init__(self):
        pass


class RetryWithoutDelay(Retry):
    def __init__(self):
        pass


class RetryAfter(Retry):
    def __init__(self, delay_seconds):
        self.delay_seconds = delay_seconds


REJECTIONS = {
    "none": Reject(None),
    "a number": Reject(5),
    "no text": Reject(NotText()),
    "a lone surrogate": Reject("lone \ud800 surrogate"),
    "control characters": Reject("line\nbreak \x00\x1b[31m"),
    "ten megabytes": Reject("long " * 2_000_000),
}
RETRIES = {
    "twelve hours": Retry(43_200),
    "thirty years": Retry(1e9),
    "at once": Retry(0),
    "after a text": RetryAfter("5"),
    "after nan": RetryAfter(float("nan")),
    "after less than nothing": RetryAfter(-1),
    "after nothing said": RetryWithoutDelay(),
    "a rejection without a reason": RejectWithoutReason(),
    "an exception without a text": NotTextEither(),
    "an outage of another store": DeduplicationError("of another store"),
    "recursion": RecursionError(),
}


def each(errors):
    return pytest.mark.parametrize("error", errors.values(), ids=errors.keys())


def failing_on_the_second(consumer, error):
    """Subscribe a listener that raises ``error`` for event 1; return the events that it finished."""
    finished = []

    @consumer.listener(name="listener")
    def listen(event):
        if event["number"] == 1:
            raise error
        finished.append(event["number"])

    return finished


def publish_three(publisher):
    publisher.publish_batch([{**EVENT, "number": number} for number in range(3)])


@each(REJECTIONS)
def test_a_rejection_with_any_reason_is_dead_lettered_alone(
    driver, make_consumer, publisher, dead_letters, error, caplog
):
    consumer = make_consumer()
    finished = failing_on_the_second(consumer, error)
    publish_three(publisher)

    assert consumer.consume_event() == 3

    (letter,) = dead_letters()
    assert json.loads(letter.body)["number"] == 1
    assert len(json.loads(letter.headers[DEAD_LETTER_HEADER])["reason"]) <= 1_000
    assert finished == [0, 2]
    assert all(len(record.getMessage()) < 3_000 for record in caplog.records)
    assert not any("\n" in record.getMessage() for record in caplog.records)


@each(RETRIES)
def test_a_failure_of_any_kind_is_tried_again_alone(driver, make_consumer, publisher, dead_letters, error):
    consumer = make_consumer()
    finished = failing_on_the_second(consumer, error)
    publish_three(publisher)

    assert consumer.consume_event() == 3

    assert finished == [0, 2]
    depth = driver.measure_queue(consumer.queue)
    assert depth.visible + depth.in_flight == 1
    assert dead_letters() == []


@each({**REJECTIONS, **RETRIES})
@pytest.mark.parametrize("queue_name", ["stock", "stock.fifo"])
def test_a_worker_goes_on_after_any_failure(error, queue_name):
    driver = InMemoryDriver()
    consumer = ExchangeMessageConsumer(queue_name, driver=driver)
    finished = failing_on_the_second(consumer, error)
    driver.send(
        consumer.queue,
        [
            Message(
                f"id-{number}",
                json.dumps({**EVENT, "number": number}),
                message_group_id=f"group-{number}",
                message_deduplication_id=f"{number}" if consumer.queue.is_fifo else None,
            )
            for number in range(3)
        ],
    )
    worker = Worker(consumer, concurrency=1, grace_seconds=5)
    worker.start()

    eventually(lambda: sorted(finished) == [0, 2])
    assert worker.stop(10)


def test_what_a_listener_raises_about_another_store_uses_up_its_attempts(
    make_consumer, publisher, clock, dead_letters
):
    consumer = make_consumer(max_attempts=2)
    attempts = []

    @consumer.listener(name="listener")
    def fail(event, attempt):
        attempts.append(attempt)
        raise DeduplicationError("of another store")

    publisher.publish(EVENT)
    consumer.consume_event()
    clock.advance(10)
    consumer.consume_event()

    assert attempts == [1, 2]
    assert len(dead_letters()) == 1


def test_an_immense_type_name_is_quoted_shortened_in_logs_and_dead_letters(
    driver, make_consumer, dead_letters, caplog
):
    caplog.set_level(logging.DEBUG)
    consumer = make_consumer(on_unhandled="reject")
    consumer.listener("ProductAdded", name="listener")(lambda event: None)
    body = json.dumps({"event_type_name": "\x1b[31m" + "x" * 200_000})
    driver.send(consumer.queue, [Message("id-1", body)])

    assert consumer.consume_event() == 1

    (letter,) = dead_letters()
    assert len(letter.headers[DEAD_LETTER_HEADER]) < 1_000
    assert all(len(record.getMessage()) < 1_000 for record in caplog.records)
    assert not any("\x1b" in record.getMessage() for record in caplog.records)


def test_a_listener_of_everything_may_fail_on_an_immense_type_name(driver, make_consumer, caplog):
    consumer = make_consumer(max_attempts=1)
    consumer.listener(name="listener")(lambda event: 1 / 0)
    driver.send(consumer.queue, [Message("id-1", json.dumps({"event_type_name": "x" * 200_000}))])

    assert consumer.consume_event() == 1

    assert all(len(record.getMessage()) < 1_000 for record in caplog.records)


@pytest.mark.parametrize("body", [" ", "null", "[]", "5", '"text"', "{", '{"event_type_name": []}'], ids=repr)
def test_a_body_of_any_kind_is_settled(driver, make_consumer, dead_letters, body):
    consumer = make_consumer(ordered_by="number")
    consumer.listener(name="listener")(lambda event: None)
    driver.send(consumer.queue, [Message("id-1", body)])

    (delivery,) = driver.receive(consumer.queue, 1, 0, visibility_timeout_seconds=0)
    assert lane_of(delivery, consumer.options.ordered_by, consumer.serializer, None) is None
    assert consumer.consume_event() == 1

    assert [letter.message_id for letter in dead_letters()] == ["id-1"]


@pytest.mark.parametrize("delay", [None, "5", -1, float("nan"), float("inf")])
def test_a_delay_that_is_not_one_is_refused_where_it_is_made(delay):
    with pytest.raises((ValueError, TypeError)):
        Defer(delay)


def test_the_reason_of_a_dead_letter_is_always_a_text_of_limited_length():
    assert DeadLetter(None).reason == "'None'"
    assert len(DeadLetter("x" * 5_000).reason) == 1_000


def test_what_can_never_succeed_may_have_an_exception_without_text(make_consumer, publisher, dead_letters):
    consumer = make_consumer(reject_on=NotTextEither)
    failing_on_the_second(consumer, NotTextEither())
    publish_three(publisher)

    assert consumer.consume_event() == 3

    assert len(dead_letters()) == 1
    assert RetryPolicy(reject_on=NotTextEither).reject_on == (NotTextEither,)
