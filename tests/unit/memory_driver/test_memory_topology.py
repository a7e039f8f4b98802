"""Names, addresses and deletion on the in-memory driver; who owns what travels."""

from types import MappingProxyType

import pytest

from melange.drivers.memory import InMemoryDriver
from melange.errors import (
    LeaseLostError,
    QueueNotFoundError,
    TopicNotFoundError,
)
from melange.messages import Message
from unit.memory_driver.given import bodies, fifo_messages, messages


def test_topics_and_queues_are_found_by_their_addresses(driver):
    topic = driver.declare_topic("topic")
    queue = driver.declare_queue("queue")

    assert topic.address.startswith("arn:aws:sns:")
    assert queue.address.startswith("arn:aws:sqs:")
    assert driver.get_topic(topic.address) == topic
    assert driver.get_queue(queue.address) == queue


def test_two_drivers_share_no_address(driver):
    with InMemoryDriver() as other:
        mine, theirs = ([some.declare_topic("name"), some.declare_queue("name")] for some in (driver, other))

        assert not {handle.address for handle in mine} & {handle.address for handle in theirs}


def test_a_topic_or_queue_of_another_driver_is_refused_although_its_name_is_known(driver):
    driver.declare_topic("name")
    driver.declare_queue("name")
    with InMemoryDriver() as other:
        topic, queue = other.declare_topic("name"), other.declare_queue("name")

    with pytest.raises(TopicNotFoundError, match="another driver"):
        driver.publish(topic, messages("lost"))
    with pytest.raises(TopicNotFoundError, match="another driver"):
        driver.declare_queue("bound", topic)
    with pytest.raises(QueueNotFoundError, match="another driver"):
        driver.send(queue, messages("lost"))
    with pytest.raises(QueueNotFoundError, match="another driver"):
        driver.receive(queue, 1, 0)
    with pytest.raises(QueueNotFoundError, match="another driver"):
        driver.declare_queue("source", dead_letter_queue=queue)
    assert driver.measure_queue(driver.get_queue("name")).visible == 0


def test_a_delivery_of_another_driver_is_refused_although_its_queues_name_is_known(driver):
    driver.declare_queue("name")
    with InMemoryDriver() as other:
        queue = other.declare_queue("name")
        other.send(queue, messages("theirs"))
        deliveries = other.receive(queue, 1, 0)

    for failures in (driver.defer(deliveries, 5), driver.acknowledge(deliveries)):
        assert [failure.item for failure in failures] == deliveries
        assert isinstance(failures[0].error, QueueNotFoundError)


@pytest.mark.parametrize(
    "handle", ["", "garbage", "0", "0-1", "-", "9" * 5_000, "9" * 5_000 + "-1-x", "1-1-é"]
)
def test_a_handle_that_is_none_settles_nothing(driver, handle):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages("kept"))
    (held,) = driver.receive(queue, 1, 0)
    garbled = held._replace(receipt_handle=handle)

    for failures in (driver.defer([garbled], 0), driver.acknowledge([garbled])):
        assert [failure.item for failure in failures] == [garbled]
        assert isinstance(failures[0].error, LeaseLostError)
    assert driver.acknowledge([held]) == []


def test_a_handle_of_another_queue_settles_nothing(driver):
    first, second = driver.declare_queue("first"), driver.declare_queue("second")
    for queue in (first, second):
        driver.send(queue, messages(queue.name))
    (of_first,), (of_second,) = (driver.receive(queue, 1, 0) for queue in (first, second))
    mixed_up = of_first._replace(receipt_handle=of_second.receipt_handle)

    (failure,) = driver.acknowledge([mixed_up])

    assert isinstance(failure.error, LeaseLostError)
    assert driver.acknowledge([of_first, of_second]) == []


def test_a_misspelt_name_is_answered_with_the_nearest(driver):
    driver.declare_topic("products")
    driver.declare_queue("stock")

    with pytest.raises(TopicNotFoundError, match="did you mean 'products'"):
        driver.get_topic("product")
    with pytest.raises(QueueNotFoundError, match="did you mean 'stock'"):
        driver.get_queue("stocks")


def test_a_queue_is_not_declared_when_its_topic_is_gone(driver):
    topic = driver.declare_topic("topic")
    driver.delete_topic(topic)

    with pytest.raises(TopicNotFoundError):
        driver.declare_queue("queue", topic)

    with pytest.raises(QueueNotFoundError):
        driver.get_queue("queue")


def test_a_queue_declared_anew_after_its_deletion_is_bound_anew(driver):
    topic = driver.declare_topic("topic")
    driver.delete_queue(driver.declare_queue("queue", topic))
    queue = driver.declare_queue("queue", topic)

    driver.publish(topic, messages("news"))

    assert bodies(driver.receive(queue, 1, 0)) == ["news"]


def test_settling_for_a_queue_that_is_gone_is_reported_for_each(driver):
    gone, kept = driver.declare_queue("gone"), driver.declare_queue("kept")
    for queue in (gone, kept):
        driver.send(queue, messages("body"))
    deliveries = driver.receive(gone, 1, 0) + driver.receive(kept, 1, 0)
    driver.delete_queue(gone)

    for failures in (driver.defer(deliveries, 5), driver.acknowledge(deliveries)):
        assert [failure.item for failure in failures] == deliveries[:1]
        assert isinstance(failures[0].error, QueueNotFoundError)


def test_without_its_deleted_dead_letter_queue_a_queue_keeps_its_messages(driver):
    dead_letters = driver.declare_queue("dead-letters")
    queue = driver.declare_queue("queue", dead_letter_queue=dead_letters, max_receive_count=1)
    driver.send(queue, messages("stubborn"))
    driver.delete_queue(dead_letters)

    driver.defer(driver.receive(queue, 1, 0), 0)

    assert bodies(driver.receive(queue, 1, 0)) == ["stubborn"]
    assert driver.get_queue("queue").dead_letter_queue is None


def test_headers_are_the_drivers_own_and_read_only(driver):
    queue = driver.declare_queue("queue")
    headers = {"tenant": "north"}
    driver.send(queue, [Message("id", "body", headers=MappingProxyType(headers))])
    headers["tenant"] = "south"

    (delivery,) = driver.receive(queue, 1, 0)

    assert delivery.message.headers == {"tenant": "north"}
    with pytest.raises(TypeError):
        delivery.message.headers["tenant"] = "east"


def test_a_standard_queue_is_told_neither_group_nor_deduplication_id_by_a_fifo_topic(driver):
    topic = driver.declare_topic("topic.fifo")
    queue = driver.declare_queue("queue", topic)
    driver.publish(topic, fifo_messages("news"))

    (delivery,) = driver.receive(queue, 1, 0)

    assert delivery.message.message_group_id is None
    assert delivery.message.message_deduplication_id is None
