"""A message that the broker would refuse raises before anything of its batch is sent."""

from __future__ import annotations

from typing import Any

import pytest

from melange.drivers.sqs_rules import message_size
from melange.errors import ConfigurationError, InvalidMessageError, MessageTooLargeError
from melange.messages import Message
from melange.testing.driver_behaviours.case import DriverCase, message


class Refusals(DriverCase):
    """The largest allowed message passes; others raise an error that says why."""

    def test_the_largest_message_of_a_topic_passes_and_one_byte_more_does_not(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)
        largest = _message_of(topic.max_message_bytes)

        with pytest.raises(MessageTooLargeError) as caught:
            self.driver.publish(topic, [message(), _message_of(topic.max_message_bytes + 1)])
        self.expect_nothing(queue)
        self.publish(topic, largest)

        assert (caught.value.size_bytes, caught.value.max_bytes) == (
            topic.max_message_bytes + 1,
            topic.max_message_bytes,
        )
        assert self.take(queue)[0].message == largest

    def test_the_largest_message_of_a_queue_passes_and_one_byte_more_does_not(self) -> None:
        queue = self.queue()
        largest = _message_of(queue.max_message_bytes)

        with pytest.raises(MessageTooLargeError):
            self.driver.send(queue, [message(), _message_of(queue.max_message_bytes + 1)])
        self.expect_nothing(queue)
        self.send(queue, largest)

        assert self.take(queue)[0].message == largest

    def test_headers_count_towards_the_size(self) -> None:
        queue = self.queue()
        largest = _message_of(queue.max_message_bytes)

        with pytest.raises(MessageTooLargeError):
            self.driver.send(queue, [Message(largest.message_id, largest.body, headers={"a": "b"})])

        self.expect_nothing(queue)

    def test_large_messages_are_split_into_batches_that_fit(self) -> None:
        queue = self.queue()
        third = queue.max_message_bytes // 3

        self.send(queue, *[_message_of(third) for _ in range(5)])

        assert len(self.take(queue, 5)) == 5

    @pytest.mark.parametrize(
        "fields",
        [
            {"body": ""},
            {"body": "a\x00b"},
            {"body": "lone surrogate \ud800"},
            {"body": "\ufffe"},
            {"message_id": ""},
            {"message_id": "with blank"},
            {"message_id": "x" * 129},
            {"event_type_name": ""},
            {"event_type_name": "x" * 257},
            {"headers": {"": "value"}},
            {"headers": {"with blank": "value"}},
            {"headers": {"AWS.reserved": "value"}},
            {"headers": {"number": 5}},
            {"headers": {"bytes": b"value"}},
            {"headers": {"control": "\x1b"}},
            {"message_group_id": "with blank"},
        ],
        ids=repr,
    )
    def test_one_invalid_message_keeps_its_whole_batch_from_being_sent(self, fields: dict[str, Any]) -> None:
        topic, queue = self.topic(), self.queue()
        invalid = Message(**{"message_id": "id", "body": "body"} | fields)

        with pytest.raises(InvalidMessageError):
            self.driver.publish(topic, [message(), invalid])
        with pytest.raises(InvalidMessageError):
            self.driver.send(queue, [message(), invalid])

        self.expect_nothing(queue)

    @pytest.mark.parametrize("limit", [0, -1, 1.5, "1", True])
    def test_a_limit_that_is_no_positive_whole_number_is_refused(self, limit: int) -> None:
        with pytest.raises(ConfigurationError, match="limit"):
            self.driver.receive(self.queue(), limit, 0)

    @pytest.mark.parametrize("wait_seconds", [-1, 0.5, "1", True])
    def test_a_wait_that_is_no_whole_number_of_seconds_is_refused(self, wait_seconds: int) -> None:
        with pytest.raises(ConfigurationError, match="wait_seconds"):
            self.driver.receive(self.queue(), 1, wait_seconds)

    def test_a_wait_beyond_the_brokers_longest_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="wait_seconds"):
            self.driver.receive(self.queue(), 1, self.driver.capabilities.max_wait_seconds + 1)

    @pytest.mark.parametrize("seconds", [-1, 0.5, "1", True])
    def test_a_visibility_that_is_no_whole_number_of_seconds_is_refused(self, seconds: int) -> None:
        queue = self.queue()

        with pytest.raises(ConfigurationError, match="visibility_timeout_seconds"):
            self.driver.receive(queue, 1, 0, visibility_timeout_seconds=seconds)
        with pytest.raises(ConfigurationError, match="seconds"):
            self.driver.defer([], seconds)

    def test_a_visibility_beyond_the_brokers_longest_is_refused(self) -> None:
        queue = self.queue()
        too_long = self.driver.capabilities.max_visibility_seconds + 1

        with pytest.raises(ConfigurationError, match="visibility_timeout_seconds"):
            self.driver.receive(queue, 1, 0, visibility_timeout_seconds=too_long)
        with pytest.raises(ConfigurationError, match="seconds"):
            self.driver.defer([], too_long)


def _message_of(size_bytes: int) -> Message:
    """Return a message of exactly this size, with some characters of several bytes."""
    start = "é日🧊"
    padding = size_bytes - message_size(message(start))
    return message(start + "x" * padding)
