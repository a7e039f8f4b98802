"""FIFO topics and queues: order within a group, and deduplication."""

from __future__ import annotations

import pytest

from melange.errors import ConfigurationError, InvalidMessageError
from melange.messages import Message, Queue, Topic
from melange.testing.driver_contract.case import DriverCase, bodies, fifo_message, message


class Fifo(DriverCase):
    """A group's messages are delivered in order, those before its first invisible one."""

    def test_messages_of_a_group_arrive_in_order_with_their_ids(self) -> None:
        topic, queue = self._topic_and_queue()
        published = [fifo_message(f"{number}", "group") for number in range(12)]

        self.publish(topic, *published)

        received: list[Message] = []
        while len(received) < len(published):
            deliveries = self.take(queue)
            received += [delivery.message for delivery in deliveries]
            self.acknowledge(*deliveries)
        assert received == published

    def test_several_messages_of_a_group_received_at_once_are_in_order(self) -> None:
        queue = self._queue()
        self.send(queue, *[fifo_message(f"{number}") for number in range(5)])

        deliveries = self.take(queue, 5)

        assert bodies(deliveries) == ["0", "1", "2", "3", "4"]

    def test_a_group_in_flight_blocks_itself_and_no_other(self) -> None:
        queue = self._queue()
        self.send(queue, fifo_message("a1", "a"), fifo_message("a2", "a"))
        (held,) = self.driver.receive(queue, 1, 0)
        self.send(queue, fifo_message("b1", "b"))

        assert bodies(self.take(queue)) == ["b1"]
        self.expect_nothing(queue)

        self.acknowledge(held)
        assert bodies(self.take(queue)) == ["a2"]

    def test_a_deferred_message_holds_its_followers_back(self) -> None:
        queue = self._queue()
        self.send(queue, fifo_message("first"), fifo_message("second"))
        (first,) = self.driver.receive(queue, 1, 0)

        assert self.driver.defer([first], self.short_visibility_seconds) == []

        self.expect_nothing(queue)
        self.pass_time(self.driver, self.short_visibility_seconds)
        assert bodies(self.take(queue, 2)) == ["first", "second"]

    def test_the_head_of_a_group_is_received_again_while_its_followers_are_in_flight(self) -> None:
        queue = self._queue()
        self.send(queue, *[fifo_message(f"{number}") for number in range(4)])
        held = self.take(queue, 3)

        assert self.driver.defer(held[:1], 0) == []

        (again,) = self.take(queue)
        assert (again.message.body, again.receive_count) == ("0", 2)
        self.expect_nothing(queue)

    @pytest.mark.parametrize("extended", [1, 2])
    def test_of_a_group_the_messages_before_its_first_invisible_one_are_received(self, extended: int) -> None:
        queue = self._queue()
        self.send(queue, *[fifo_message(f"{number}") for number in range(4)])
        held = self.take(queue, 3, visibility_timeout_seconds=self.short_visibility_seconds)

        assert self.driver.defer([held[extended]], 30) == []
        self.pass_time(self.driver, self.short_visibility_seconds)

        assert bodies(self.take(queue, extended)) == [f"{number}" for number in range(extended)]
        self.expect_nothing(queue)

    def test_order_is_kept_after_an_expiry_that_leaves_a_hole(self) -> None:
        queue = self._queue()
        self.send(queue, *[fifo_message(f"{number}") for number in range(5)])
        held = self.take(queue, 3, visibility_timeout_seconds=self.short_visibility_seconds)
        self.acknowledge(held[1])

        self.pass_time(self.driver, self.short_visibility_seconds)

        assert bodies(self.take(queue, 4)) == ["0", "2", "3", "4"]

    def test_order_is_kept_when_a_group_is_given_back_in_disorder(self) -> None:
        queue = self._queue()
        self.send(queue, *[fifo_message(f"{number}") for number in range(4)])
        first, second, third = self.take(queue, 3)

        for delivery in (second, third, first):
            assert self.driver.defer([delivery], 0) == []

        assert bodies(self.take(queue, 4)) == ["0", "1", "2", "3"]

    def test_a_deduplication_id_counts_once_in_a_queue(self) -> None:
        queue = self._queue()

        self.send(queue, fifo_message("first", message_deduplication_id="same"))
        self.send(queue, fifo_message("second", message_deduplication_id="same"))

        self._expect_only(queue, "first")

    def test_a_deduplication_id_counts_once_in_a_topic(self) -> None:
        topic, queue = self._topic_and_queue()

        self.publish(topic, fifo_message("first", message_deduplication_id="same"))
        self.publish(topic, fifo_message("second", message_deduplication_id="same"))

        self._expect_only(queue, "first")

    def test_a_deduplication_id_outlives_the_message(self) -> None:
        queue = self._queue()
        self.send(queue, fifo_message("first", message_deduplication_id="same"))
        self.acknowledge(*self.take(queue))

        self.send(queue, fifo_message("second", message_deduplication_id="same"))

        self.expect_nothing(queue)

    def test_a_deduplication_id_counts_in_each_queue_by_itself(self) -> None:
        first, second = self._queue(), self._queue()

        self.send(first, fifo_message("to the first", message_deduplication_id="same"))
        self.send(second, fifo_message("to the second", message_deduplication_id="same"))

        assert bodies(self.take(first)) == ["to the first"]
        assert bodies(self.take(second)) == ["to the second"]

    def test_a_message_without_a_group_is_refused(self) -> None:
        topic, queue = self._topic_and_queue()

        with pytest.raises(InvalidMessageError, match="message_group_id"):
            self.driver.publish(topic, [message(message_deduplication_id="id")])
        with pytest.raises(InvalidMessageError, match="message_group_id"):
            self.driver.send(queue, [message(message_deduplication_id="id")])

        self.expect_nothing(queue)

    def test_a_message_without_a_deduplication_id_is_refused(self) -> None:
        topic, queue = self._topic_and_queue()

        with pytest.raises(InvalidMessageError, match="message_deduplication_id"):
            self.driver.publish(topic, [message(message_group_id="group")])
        with pytest.raises(InvalidMessageError, match="message_deduplication_id"):
            self.driver.send(queue, [message(message_group_id="group")])

        self.expect_nothing(queue)

    def test_a_fifo_topic_feeds_a_standard_queue(self) -> None:
        self.needs("fifo")
        topic = self.topic(fifo=True)
        queue = self.queue(topic)

        self.publish(topic, fifo_message("news"))

        (delivery,) = self.take(queue)
        assert delivery.message.body == "news"
        assert delivery.message.message_deduplication_id is None

    def test_a_standard_topic_cannot_feed_a_fifo_queue(self) -> None:
        self.needs("fifo")
        topic = self.topic()
        name = self.name(fifo=True)

        with pytest.raises(ConfigurationError, match="FIFO"):
            self.queue(topic, name=name)

    def test_fifo_or_not_shows(self) -> None:
        topic, queue = self._topic_and_queue()

        assert topic.is_fifo
        assert queue.is_fifo
        assert self.driver.get_topic(topic.name).is_fifo
        assert self.driver.get_queue(queue.name).is_fifo
        assert not self.topic().is_fifo
        assert not self.queue().is_fifo

    def _queue(self) -> Queue:
        self.needs("fifo")
        return self.queue(fifo=True)

    def _topic_and_queue(self) -> tuple[Topic, Queue]:
        self.needs("fifo")
        topic = self.topic(fifo=True)
        return topic, self.queue(topic, fifo=True)

    def _expect_only(self, queue: Queue, body: str) -> None:
        deliveries = self.take(queue)
        assert bodies(deliveries) == [body]
        # In flight it would block its followers.
        self.acknowledge(*deliveries)
        self.expect_nothing(queue)
