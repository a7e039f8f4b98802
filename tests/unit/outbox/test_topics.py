"""What a relay knows about topics in trouble."""

from __future__ import annotations

from melange.errors import DriverConnectionError
from melange.messages import Message
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
