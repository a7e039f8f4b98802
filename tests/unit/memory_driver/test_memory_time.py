"""The in-memory driver's rules of time, those that a contract on a real broker could not wait for."""

import pytest

from melange.drivers.base import QueueDepth
from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS, MAX_VISIBILITY_SECONDS
from melange.errors import LeaseLostError
from unit.memory_driver.given import bodies, fifo_messages, messages

DAY_SECONDS = 86_400


def test_a_message_is_kept_for_four_days_by_default(driver, clock):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages("old"))

    clock.advance(4 * DAY_SECONDS - 1)
    assert driver.measure_queue(queue).visible == 1
    clock.advance(1)

    assert driver.measure_queue(queue).visible == 0
    assert driver.receive(queue, 10, 0) == []


def test_a_message_is_kept_for_the_queues_retention(driver, clock):
    queue = driver.declare_queue("queue", retention_seconds=60)
    driver.send(queue, messages("old"))
    clock.advance(30)
    driver.send(queue, messages("new"))

    clock.advance(30)

    assert bodies(driver.receive(queue, 10, 0)) == ["new"]


def test_declaring_again_changes_the_retention_only_when_it_is_named(driver, clock):
    queue = driver.declare_queue("queue", retention_seconds=60)
    driver.declare_queue("queue")
    driver.send(queue, messages("old"))

    clock.advance(60)

    assert driver.receive(queue, 10, 0) == []


def test_a_dead_letters_age_counts_from_the_original_send(driver, clock):
    dead_letters = driver.declare_queue("dead-letters", retention_seconds=100)
    queue = driver.declare_queue("queue", dead_letter_queue=dead_letters, max_receive_count=1)
    driver.send(queue, messages("poison"))
    clock.advance(60)
    driver.defer(driver.receive(queue, 1, 0), 0)
    driver.receive(queue, 1, 0)
    assert driver.measure_queue(dead_letters).visible == 1

    clock.advance(40)

    assert driver.receive(dead_letters, 1, 0) == []


def test_a_fifo_dead_letters_age_counts_from_its_move(driver, clock):
    dead_letters = driver.declare_queue("dead-letters.fifo", retention_seconds=100)
    queue = driver.declare_queue("queue.fifo", dead_letter_queue=dead_letters, max_receive_count=1)
    driver.send(queue, fifo_messages("poison"))
    clock.advance(60)
    driver.defer(driver.receive(queue, 1, 0), 0)
    driver.receive(queue, 1, 0)

    clock.advance(99)

    assert bodies(driver.receive(dead_letters, 1, 0)) == ["poison"]


def test_a_message_that_is_too_old_frees_its_group(driver, clock):
    queue = driver.declare_queue("queue.fifo", retention_seconds=60)
    driver.send(queue, fifo_messages("old"))
    clock.advance(30)
    driver.send(queue, fifo_messages("new"))

    clock.advance(30)

    assert bodies(driver.receive(queue, 1, 0)) == ["new"]


@pytest.mark.parametrize("target", ["queue", "topic"])
def test_a_deduplication_id_is_forgotten_after_five_minutes_from_its_first_use(driver, clock, target):
    topic = driver.declare_topic("topic.fifo")
    queue = driver.declare_queue("queue.fifo", topic)

    def hand_over():
        message = fifo_messages("same")
        return driver.publish(topic, message) if target == "topic" else driver.send(queue, message)

    hand_over()
    clock.advance(DEDUPLICATION_SECONDS - 1)
    hand_over()
    assert driver.measure_queue(queue).visible == 1
    clock.advance(1)
    hand_over()
    assert driver.measure_queue(queue).visible == 2
    clock.advance(DEDUPLICATION_SECONDS - 1)
    hand_over()

    assert driver.measure_queue(queue).visible == 2


def test_a_topic_and_its_queue_share_a_deduplication_id(driver):
    topic = driver.declare_topic("topic.fifo")
    queue = driver.declare_queue("queue.fifo", topic)

    driver.publish(topic, fifo_messages("same"))
    driver.send(queue, fifo_messages("same"))

    assert driver.measure_queue(queue).visible == 1


def test_nothing_stays_invisible_beyond_twelve_hours_from_its_receipt(driver, clock):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages("long"))
    (delivery,) = driver.receive(queue, 1, 0, visibility_timeout_seconds=MAX_VISIBILITY_SECONDS)
    clock.advance(100)

    assert driver.defer([delivery], MAX_VISIBILITY_SECONDS) == []

    clock.advance(MAX_VISIBILITY_SECONDS - 101)
    assert driver.receive(queue, 1, 0) == []
    clock.advance(1)
    assert bodies(driver.receive(queue, 1, 0)) == ["long"]


def test_no_visibility_timeout_leaves_a_delivery_visible(driver):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages("shared"))

    first = driver.receive(queue, 1, 0, visibility_timeout_seconds=0)
    second = driver.receive(queue, 1, 0, visibility_timeout_seconds=0)

    assert [delivery.receive_count for delivery in first + second] == [1, 2]
    assert isinstance(driver.acknowledge(first)[0].error, LeaseLostError)


def test_a_deadline_that_is_set_twice_delivers_once(driver, clock):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages("once"))
    held = driver.receive(queue, 1, 0)
    for seconds in (5, 9, 5):
        assert driver.defer(held, seconds) == []

    clock.advance(10)

    assert bodies(driver.receive(queue, 10, 0)) == ["once"]
    assert driver.measure_queue(queue) == QueueDepth(visible=0, in_flight=1, delayed=0)


def test_a_deferral_that_exceeds_what_is_left_by_far_leaves_the_message_invisible_until_then(driver, clock):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages("retried"))
    held = driver.receive(queue, 1, 0)
    clock.advance(10)

    assert driver.defer(held, MAX_VISIBILITY_SECONDS) == []

    assert driver.measure_queue(queue) == QueueDepth(visible=0, in_flight=1, delayed=0)


def test_who_has_given_a_delivery_back_cannot_settle_it_any_more(driver):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages("given-back"))
    given_back = driver.receive(queue, 1, 0)
    driver.defer(given_back, 0)

    (failure,) = driver.acknowledge(given_back)

    assert isinstance(failure.error, LeaseLostError)
    assert bodies(driver.receive(queue, 1, 0)) == ["given-back"]


def test_who_goes_by_the_first_deadline_loses_what_was_deferred(driver, clock):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages("kept"))
    (held,) = driver.receive(queue, 1, 0, visibility_timeout_seconds=5)
    driver.defer([held], 60)
    clock.advance(5)

    (failure,) = driver.acknowledge([held])

    assert isinstance(failure.error, LeaseLostError)
    assert driver.acknowledge([held._replace(deadline=60)]) == []


def test_what_comes_back_stands_behind_what_waits(driver):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages("failing", "waiting"))

    driver.defer(driver.receive(queue, 1, 0), 0)

    assert bodies(driver.receive(queue, 10, 0)) == ["waiting", "failing"]
