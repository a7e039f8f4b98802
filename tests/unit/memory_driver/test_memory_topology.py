"""Names, addresses and deletion on the in-memory driver; who owns what travels."""

from types import MappingProxyType

import pytest

from melange.errors import (
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
