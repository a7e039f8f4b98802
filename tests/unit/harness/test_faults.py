"""Faults on request: the application meets them as in production."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from melange import (
    ConfigurationError,
    Deduplication,
    DriverConnectionError,
    EventMessage,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    RetryPolicy,
)


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    order_id: str


def place(order_id: str = "1") -> None:
    ExchangeMessagePublisher("orders").publish(OrderPlaced(order_id))


@pytest.fixture
def runs(harness):
    consumer = ExchangeMessageConsumer(
        "warehouse", "orders", retry=RetryPolicy(backoff=lambda _: 60), timeout_seconds=600
    )
    runs = []

    @consumer.listener(OrderPlaced, name="pack")
    def pack(event):
        runs.append(event.order_id)

    return runs


def test_a_publish_fails_and_the_next_does_not(harness, runs) -> None:
    harness.faults.next_publish_fails()

    with pytest.raises(DriverConnectionError, match="the test lets this publish fail"):
        place("1")
    place("2")
    harness.settle()

    assert runs == ["2"]


def test_an_answer_to_a_publish_is_lost(harness, runs) -> None:
    harness.faults.next_publish_fails(is_accepted=True)

    with pytest.raises(DriverConnectionError, match="the answer was lost"):
        place()
    harness.settle()

    assert runs == ["1"]


def test_polls_that_fail_are_tried_again(harness, runs) -> None:
    harness.faults.next_receive_fails(times=3)
    place()

    harness.settle()

    assert runs == ["1"]
    assert "receiving from warehouse failed" in harness.what_happened()


def test_a_message_that_could_not_be_acknowledged_comes_back_and_does_not_run_again(harness, runs) -> None:
    harness.faults.next_acknowledge_fails()
    place()

    harness.settle()
    left = harness.driver.measure_queue(harness.driver.get_queue("warehouse")).in_flight
    harness.advance(minutes=1)

    assert left == 1
    assert harness.driver.measure_queue(harness.driver.get_queue("warehouse")).in_flight == 0
    assert runs == ["1"]


def test_a_listener_that_takes_long_keeps_its_lease(harness, runs) -> None:
    harness.faults.listener_takes("pack", seconds=500)
    place()

    harness.settle()

    assert harness.clock.monotonic() == 500
    assert runs == ["1"]
    harness.nothing_failed()


def test_a_listener_that_takes_longer_than_its_limit_fails(harness, runs) -> None:
    harness.faults.listener_takes(OrderPlaced, seconds=601)
    place()

    harness.settle()
    failed = harness.failed("pack")
    harness.faults.listener_takes(OrderPlaced, seconds=0)
    harness.advance(minutes=1)

    assert failed == [OrderPlaced("1")]
    assert "TimeLimitExceeded" in harness.what_happened()
    assert runs == ["1"]


def test_while_the_store_is_unavailable_nothing_runs_and_nothing_is_lost(harness, runs) -> None:
    place()

    with harness.faults.store_is_unavailable():
        harness.settle()
        during = list(runs)
    harness.settle()

    assert (during, runs) == ([], ["1"])


def test_a_consumer_that_processes_without_its_store_does_so(harness) -> None:
    consumer = ExchangeMessageConsumer(
        "warehouse", "orders", deduplication=Deduplication(on_unavailable="process")
    )
    runs = []
    consumer.listener(OrderPlaced)(runs.append)
    place()

    with harness.faults.store_is_unavailable():
        harness.settle()

    assert runs == [OrderPlaced("1")]


@pytest.mark.parametrize("times", [0, True, 1.5])
def test_a_number_of_times_is_checked(harness, times) -> None:
    with pytest.raises(ConfigurationError, match="times must be"):
        harness.faults.next_publish_fails(times=times)
