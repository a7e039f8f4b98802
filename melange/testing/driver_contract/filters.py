"""Filters by event type, and messages that are refused before anything of their batch is sent."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from melange.drivers.base import EventFilter
from melange.drivers.sqs_rules import message_size
from melange.errors import ConfigurationError, InvalidMessageError, MessageTooLargeError
from melange.messages import Message, Queue, Topic
from melange.testing.driver_contract.case import DriverCase, bodies, message


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
            self.driver.send(queue, [largest._replace(headers={"a": "b"})])

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


class Filters(DriverCase):
    """A filter belongs to one binding, and passes the types that it names."""

    def test_a_filter_lets_its_type_pass_and_nothing_else(self) -> None:
        topic = self._topic()
        queue = self.queue(topic, event_filter=EventFilter(("Wanted",)))

        self._publish_types(topic, "Other", "Wanted", "wanted", "WantedToo")

        self._expect_types(queue, "Wanted")

    def test_a_filter_lets_several_types_pass(self) -> None:
        topic = self._topic()
        queue = self.queue(topic, event_filter=EventFilter(("One", "Two")))

        self._publish_types(topic, "One", "Other", "Two")

        self._expect_types(queue, "One", "Two")

    def test_without_a_filter_everything_passes(self) -> None:
        topic = self._topic()
        queue = self.queue(topic)

        self._publish_types(topic, "One", "Two")
        self.publish(topic, message('"no type"'))

        assert sorted(bodies(self.take(queue, 3))) == ['"no type"', _body("One"), _body("Two")]

    def test_a_second_queues_filter_does_not_change_the_firsts(self) -> None:
        topic = self._topic()
        first = self.queue(topic, event_filter=EventFilter(("One",)))
        second = self.queue(topic, event_filter=EventFilter(("Two",)))
        everything = self.queue(topic)

        self._publish_types(topic, "One", "Two")

        self._expect_types(first, "One")
        self._expect_types(second, "Two")
        self._expect_types(everything, "One", "Two")

    def test_a_filter_by_headers_does_not_see_the_body(self) -> None:
        topic = self._topic()
        queue = self.queue(topic, event_filter=EventFilter(("Wanted",), scope="headers"))

        self.publish(topic, message(_body("Wanted")), message(_body("Wanted"), event_type_name="Wanted"))

        self._expect_types(queue, "Wanted")

    def test_a_filter_by_body_sees_what_others_published(self) -> None:
        topic = self._topic()
        queue = self.queue(topic, event_filter=EventFilter(("Wanted",), scope="body"))

        self.publish(topic, message(_body("Other")), message(_body("Wanted")))

        self._expect_types(queue, "Wanted")

    @pytest.mark.parametrize("scope", ["headers", "body"])
    def test_redeclaring_without_naming_it_keeps_the_filter(self, scope: Literal["headers", "body"]) -> None:
        topic = self._topic()
        queue = self.queue(topic, event_filter=EventFilter(("Wanted",), scope))

        self.queue(topic, name=queue.name)
        self._publish_types(topic, "Other", "Wanted")

        self._expect_types(queue, "Wanted")

    def test_redeclaring_with_another_filter_replaces_it(self) -> None:
        topic = self._topic()
        queue = self.queue(topic, event_filter=EventFilter(("Old",)))

        self.queue(topic, name=queue.name, event_filter=EventFilter(("New",), scope="body"))
        self._publish_types(topic, "Old", "New")

        self._expect_types(queue, "New")

    def test_a_filter_applies_only_to_the_topics_it_was_declared_with(self) -> None:
        filtered, other = self._topic(), self.topic()
        queue = self.queue(filtered, event_filter=EventFilter(("Wanted",)))
        self.queue(other, name=queue.name)

        self._publish_types(filtered, "Unwanted")
        self._publish_types(other, "Anything")

        self._expect_types(queue, "Anything")

    def test_what_is_sent_to_the_queue_itself_is_not_filtered(self) -> None:
        queue = self.queue(self._topic(), event_filter=EventFilter(("Wanted",)))

        self.send(queue, message(_body("Other"), event_type_name="Other"))

        self._expect_types(queue, "Other")

    def test_a_filter_that_names_nothing_takes_the_filter_off(self) -> None:
        topic = self._topic()
        queue = self.queue(topic, event_filter=EventFilter(("Wanted",)))

        self.queue(topic, name=queue.name, event_filter=EventFilter(()))
        self._publish_types(topic, "Other", "Wanted")
        self.publish(topic, message('"no type"'))

        assert sorted(bodies(self.take(queue, 3))) == ['"no type"', _body("Other"), _body("Wanted")]

    def test_a_queue_declared_with_a_filter_that_names_nothing_receives_everything(self) -> None:
        topic = self._topic()
        queue = self.queue(topic, event_filter=EventFilter(()))

        self._publish_types(topic, "Any")

        self._expect_types(queue, "Any")

    def test_the_bindings_of_a_queue_are_listed_with_their_filters(self) -> None:
        administration = self.administration()
        filtered, everything, other = self._topic(), self.topic(), self.topic()
        event_filter = EventFilter(("One", "Two"))
        queue = self.queue(filtered, event_filter=event_filter)
        self.queue(everything, name=queue.name)
        self.queue(other)

        bindings = {binding.topic: binding.event_filter for binding in administration.list_bindings(queue)}

        assert bindings == {filtered: event_filter, everything: None}

    def _topic(self) -> Topic:
        self.needs("event_filters")
        return self.topic()

    def _publish_types(self, topic: Topic, *event_type_names: str) -> None:
        self.publish(topic, *[message(_body(name), event_type_name=name) for name in event_type_names])

    def _expect_types(self, queue: Queue, *event_type_names: str) -> None:
        received = self.take(queue, len(event_type_names))
        assert sorted(bodies(received)) == sorted(map(_body, event_type_names))
        self.expect_nothing(queue)


def _body(event_type_name: str) -> str:
    return json.dumps({"event_type_name": event_type_name})
