import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, QueueOptions, RetryPolicy
from melange.drivers.memory import InMemoryDriver
from melange.errors import DriverConnectionError, Failure
from melange.messages import DEAD_LETTER_HEADER, Message, Queue
from melange.operations import DeadLetters
from melange.testing import ManualClock

AT_ONCE = QueueOptions(wait_seconds=0)
ONE_ATTEMPT = RetryPolicy(max_attempts=1)


class PassingClock(ManualClock):
    """A clock on which the waits of the test's own thread are over at once, and take their time."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.current_thread()

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        if threading.current_thread() is self._thread:
            self.advance(seconds)
        else:
            super().wait(condition, seconds)


@pytest.fixture
def clock():
    return PassingClock()


class RefusingDriver(InMemoryDriver):
    """A broker that refuses the messages with certain ids."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.refused_ids: set[str] = set()

    def send(
        self, queue: Queue, messages: Sequence[Message], *, delay_seconds: int = 0
    ) -> list[Failure[Message]]:
        refused = [message for message in messages if message.message_id in self.refused_ids]
        accepted = [message for message in messages if message not in refused]
        failures = super().send(queue, accepted, delay_seconds=delay_seconds)
        return failures + [Failure(message, DriverConnectionError("no answer")) for message in refused]


@pytest.fixture
def driver(clock):
    with RefusingDriver(clock=clock) as driver:
        yield driver


@pytest.fixture
def refuse(driver):
    """Have the broker refuse the message with this id from now on."""
    return driver.refused_ids.add


@pytest.fixture
def consumer(driver):
    return ExchangeMessageConsumer("billing", "orders", driver=driver, queue=AT_ONCE, retry=ONE_ATTEMPT)


@pytest.fixture
def publish(driver, consumer):
    """Publish events to the topic of the consumer."""
    publisher = ExchangeMessagePublisher("orders", driver)

    def publish_events(*events: dict, **options: object) -> None:
        for event in events:
            publisher.publish(event, "OrderPlaced", **options)

    return publish_events


@pytest.fixture
def add(driver, consumer):
    """Put a message into the dead-letter queue, as a consumer does; return its id."""
    numbers = iter(range(1, 100_000))

    def add_dead_letter(
        reason="it failed", listener="bill", queue="billing", body=None, to="billing-dlq", **fields
    ):
        number = next(numbers)
        note = {
            "reason": reason,
            "listener": listener,
            "queue": queue,
            "attempts": 1,
            "rejected_at": fields.pop("rejected_at", driver.clock.now()).isoformat(),
        }
        headers = {**fields.pop("headers", {}), DEAD_LETTER_HEADER: json.dumps(note)}
        message = Message(
            fields.pop("message_id", f"m-{number}"),
            json.dumps({"event_type_name": "OrderPlaced", "number": number}) if body is None else body,
            headers=headers,
            published_at=datetime(2026, 1, 1, tzinfo=UTC),
            **fields,
        )
        assert driver.send(driver.get_queue(to), [message]) == []
        return message.message_id

    return add_dead_letter


@pytest.fixture
def letters(driver, consumer):
    return DeadLetters("billing", driver)


@pytest.fixture
def messages_in(driver):
    """Return the messages of a queue, and leave them there."""

    def look(queue_name: str) -> list[Message]:
        queue, found = driver.get_queue(queue_name), []
        while deliveries := driver.receive(queue, 10, 0):
            found += deliveries
        driver.defer(found, 0)
        return [delivery.message for delivery in found]

    return look


@pytest.fixture
def ids_in(messages_in):
    """Return the sorted ids of the messages in a queue."""
    return lambda queue_name: sorted(message.message_id for message in messages_in(queue_name))
