"""The local event source: a queue's messages go to the function, and what it does not report is deleted."""

from __future__ import annotations

import pytest

from melange import (
    ConfigurationError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueMessagePublisher,
)
from melange.aws_lambda import LocalEventSource, handler
from melange.testing import Harness


@pytest.fixture
def harness():
    with Harness() as harness:
        yield harness


def test_the_function_receives_what_was_published_and_it_is_deleted(harness) -> None:
    consumer = ExchangeMessageConsumer("shipping", "payments")
    received = []
    consumer.listener("Paid")(
        lambda event, message_id, headers: received.append((event["order"], message_id, dict(headers)))
    )
    ExchangeMessagePublisher("payments").publish(
        {"order": 7}, "Paid", message_id="paid-7", headers={"a": "b"}
    )
    source = LocalEventSource(handler(consumer))

    counts = [source.poll(), source.poll()]

    assert received == [(7, "paid-7", {"a": "b"})]
    assert counts == [1, 0]
    assert list(harness.driver.list_messages(consumer.queue)) == []


def test_a_failed_message_comes_back_after_the_delay_of_its_retry(harness) -> None:
    consumer = ExchangeMessageConsumer("shipping", "payments")

    @consumer.listener("Paid")
    def ship(event, attempt):
        if attempt == 1:
            raise ConnectionError("no parcel service")

    ExchangeMessagePublisher("payments").publish({}, "Paid")
    source = LocalEventSource(handler(consumer))

    first, early = source.poll(), source.poll()
    harness.clock.advance(5)
    later = source.poll()

    assert (first, early, later) == (0, 0, 1)
    assert harness.failed(ship)
    assert harness.handled(ship)


def test_messages_of_a_fifo_queue_come_in_order(harness) -> None:
    consumer = ExchangeMessageConsumer("shipping.fifo")
    received = []
    consumer.listener()(lambda event: received.append(event["number"]))
    for number in range(3):
        QueueMessagePublisher("shipping.fifo").send({"number": number}, "Paid", message_group_id="group")
    source = LocalEventSource(handler(consumer))

    while source.poll():
        pass

    assert received == [0, 1, 2]


def test_the_handler_knows_the_time_of_its_invocation(harness) -> None:
    consumer = ExchangeMessageConsumer("shipping")
    started = []

    @consumer.listener()
    def slow(event):
        started.append(event["number"])
        harness.clock.advance(20)

    for number in range(2):
        QueueMessagePublisher("shipping").send({"number": number}, "Paid")
    deleted = LocalEventSource(handler(consumer), timeout_seconds=10).poll()

    assert (started, deleted) == ([0], 0)


@pytest.mark.parametrize("timeout_seconds", [0, 901, True, 1.5, "30"])
def test_a_time_that_lambda_does_not_have_is_refused(harness, timeout_seconds) -> None:
    consumer = ExchangeMessageConsumer("shipping")

    with pytest.raises(ConfigurationError, match="from 1 to 900"):
        LocalEventSource(handler(consumer), timeout_seconds=timeout_seconds)


def test_a_function_that_is_not_a_handler_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"takes what handler\(\.\.\.\) returned"):
        LocalEventSource(print)
