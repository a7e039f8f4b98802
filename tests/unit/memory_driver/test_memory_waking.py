"""Whoever waits for an in-memory queue is woken at once, by the machine's own clock.

A wait of 20 seconds that lasts longer than 10 was not woken.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from melange.drivers.memory import InMemoryDriver
from melange.errors import QueueNotFoundError
from unit.memory_driver.given import bodies, fifo_messages, messages, start_receive


@pytest.fixture
def real_time_driver():
    with InMemoryDriver() as driver:
        yield driver


@pytest.fixture(autouse=True)
def _at_once():
    started_at = time.monotonic()
    yield
    assert time.monotonic() - started_at < 10


def test_an_arrival_wakes_a_receiver_at_once(real_time_driver):
    topic = real_time_driver.declare_topic("topic")
    queue = real_time_driver.declare_queue("queue", topic)
    with ThreadPoolExecutor() as pool:
        receiver = start_receive(pool, real_time_driver, queue)

        real_time_driver.publish(topic, messages("news"))

        assert bodies(receiver.result()) == ["news"]


def test_what_is_given_back_wakes_a_receiver_at_once(real_time_driver):
    queue = real_time_driver.declare_queue("queue")
    real_time_driver.send(queue, messages("again"))
    held = real_time_driver.receive(queue, 1, 0)
    with ThreadPoolExecutor() as pool:
        receiver = start_receive(pool, real_time_driver, queue)

        real_time_driver.defer(held, 0)

        assert bodies(receiver.result()) == ["again"]


def test_what_is_due_earlier_than_expected_is_waited_for_no_longer(real_time_driver):
    queue = real_time_driver.declare_queue("queue")
    real_time_driver.send(queue, messages("again"))
    held = real_time_driver.receive(queue, 1, 0, visibility_timeout_seconds=60)
    with ThreadPoolExecutor() as pool:
        receiver = start_receive(pool, real_time_driver, queue)

        real_time_driver.defer(held, 1)

        assert bodies(receiver.result()) == ["again"]


def test_an_acknowledgement_that_frees_a_group_wakes_a_receiver_at_once(real_time_driver):
    queue = real_time_driver.declare_queue("queue.fifo")
    real_time_driver.send(queue, fifo_messages("first", "second"))
    held = real_time_driver.receive(queue, 1, 0)
    with ThreadPoolExecutor() as pool:
        receiver = start_receive(pool, real_time_driver, queue)

        real_time_driver.acknowledge(held)

        assert bodies(receiver.result()) == ["second"]


def test_a_dead_letter_wakes_who_waits_for_dead_letters(real_time_driver):
    dead_letters = real_time_driver.declare_queue("dead-letters")
    queue = real_time_driver.declare_queue("queue", dead_letter_queue=dead_letters, max_receive_count=1)
    real_time_driver.send(queue, messages("poison"))
    real_time_driver.defer(real_time_driver.receive(queue, 1, 0), 0)
    with ThreadPoolExecutor() as pool:
        receiver = start_receive(pool, real_time_driver, dead_letters)

        real_time_driver.receive(queue, 1, 0)

        assert bodies(receiver.result()) == ["poison"]


def test_closing_wakes_a_receiver_with_nothing(real_time_driver):
    queue = real_time_driver.declare_queue("queue")
    with ThreadPoolExecutor() as pool:
        receiver = start_receive(pool, real_time_driver, queue)

        real_time_driver.close()

        assert receiver.result() == []


def test_deleting_a_queue_wakes_its_receivers_with_the_reason(real_time_driver):
    queue = real_time_driver.declare_queue("queue")
    with ThreadPoolExecutor() as pool:
        receiver = start_receive(pool, real_time_driver, queue)

        real_time_driver.delete_queue(queue)

        with pytest.raises(QueueNotFoundError):
            receiver.result()


def test_a_wait_that_is_ended_returns_nothing_at_once(real_time_driver):
    queue = real_time_driver.declare_queue("queue")
    other = real_time_driver.declare_queue("other")
    with ThreadPoolExecutor() as pool:
        receiver = start_receive(pool, real_time_driver, queue)
        still_waiting = start_receive(pool, real_time_driver, other)

        real_time_driver.end_waits(queue)

        assert receiver.result() == []
        real_time_driver.send(other, messages("news"))
        assert bodies(still_waiting.result()) == ["news"]


def test_a_wait_that_begins_after_waits_were_ended_waits(real_time_driver):
    queue = real_time_driver.declare_queue("queue")
    real_time_driver.end_waits(queue)
    with ThreadPoolExecutor() as pool:
        receiver = start_receive(pool, real_time_driver, queue)

        real_time_driver.send(queue, messages("news"))

        assert bodies(receiver.result()) == ["news"]
