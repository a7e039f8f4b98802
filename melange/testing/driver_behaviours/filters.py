"""Filters: a queue gets the event types of its filter."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from melange.drivers.base import EventFilter
from melange.messages import Queue, Topic
from melange.testing.driver_behaviours.case import DriverCase, bodies, message


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
