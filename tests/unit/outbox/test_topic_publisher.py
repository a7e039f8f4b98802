"""What a relay knows about topics in trouble."""

from __future__ import annotations

from collections.abc import Sequence

from melange.errors import DriverConnectionError, Failure
from melange.messages import Message, Topic
from melange.outbox.topic_publisher import TopicPublisher
from melange.testing import ManualClock
from outbox_behaviours.drivers import JudgingDriver

MESSAGE = Message("1", '{"name": "a0"}', "Named")


def refuse(topic: str, name: str) -> None:
    raise DriverConnectionError("no answer")


def test_a_topic_in_trouble_for_which_nothing_waits_any_more_is_forgotten() -> None:
    clock = ManualClock()
    with JudgingDriver(refuse, clock=clock) as driver:
        topics = TopicPublisher(driver, declare=True)
        topics.publish("orders", [MESSAGE])
        paused_at_first = topics.paused

        clock.advance(45)
        assert topics.paused == []
        in_trouble = list(topics.errors)
        clock.advance(60)
        assert topics.paused == []

        assert paused_at_first == ["orders"]
        assert in_trouble == ["orders"]
        assert topics.errors == {}


class CopyingDriver(JudgingDriver):
    """Reports failures with messages that are equal to those it was given, as if read from an answer."""

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        failures = super().publish(topic, messages)
        return [Failure(Message(*failure.item), failure.error) for failure in failures]


def test_failures_are_matched_by_message_id() -> None:
    messages = [Message(str(number), f'{{"name": "a{number}"}}', "Named") for number in range(3)]
    with CopyingDriver(
        lambda topic, name: DriverConnectionError("no answer") if name == "a1" else None
    ) as driver:
        answer = TopicPublisher(driver, declare=True).publish("orders", messages)

    assert answer.accepted == [0, 2]
    assert list(answer.failed) == [1]


def test_a_failure_of_a_message_that_was_not_given_leaves_none_as_accepted() -> None:
    class StrangeDriver(JudgingDriver):
        def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
            return [Failure(messages[0]._replace(message_id="another"), DriverConnectionError("no answer"))]

    with StrangeDriver() as driver:
        answer = TopicPublisher(driver, declare=True).publish("orders", [MESSAGE])

    assert answer.accepted == []
    assert "that it was not given" in str(answer.trouble)
