"""The base of every part of the driver contract: a driver, unique names, and waiting with a deadline."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

import pytest

from melange.drivers.base import BrokerAdministration, MessagingDriver
from melange.errors import MelangeError
from melange.messages import Delivery, Message, Queue, Topic

ResultT = TypeVar("ResultT")

_BETWEEN_POLLS_SECONDS = 0.01


class DriverCase(ABC):
    """A driver under test; ``DriverContract`` lists what a subclass may set."""

    short_visibility_seconds: int = 1
    max_delay_seconds: int = 900
    detects_stale_handles: bool = True
    patience_seconds: float = 10
    many_messages: int = 5_000
    many_fifo_messages: int = 1_000

    @abstractmethod
    def make_driver(self) -> MessagingDriver:
        """Return a new driver of the broker under test."""

    def pass_time(self, driver: MessagingDriver, seconds: float) -> None:
        """Let time pass for driver and broker; by default it really does."""
        end = driver.clock.monotonic() + seconds
        while driver.clock.monotonic() < end:
            _pause()

    @cached_property
    def driver(self) -> MessagingDriver:
        """The test's driver, made at first use, when the subclass's fixtures are ready."""
        return self.make_driver()

    @cached_property
    def _topics(self) -> list[Topic]:
        return []

    @cached_property
    def _queues(self) -> list[Queue]:
        return []

    def teardown_method(self) -> None:
        """Remove what the test has declared, where the driver can, and close it."""
        if "driver" not in vars(self):
            return
        if isinstance(self.driver, BrokerAdministration):
            # Best effort: a failed cleanup must not fail a test that has passed.
            with contextlib.suppress(MelangeError):
                for queue in reversed(self._queues):
                    self.driver.delete_queue(queue)
                for topic in self._topics:
                    self.driver.delete_topic(topic)
        self.driver.close()
        # pytest keeps this object until the end of the run, and a driver's clients take 10 MB.
        del self.driver

    def needs(self, capability: str) -> None:
        """Skip the test unless the driver's capabilities have this one."""
        if not getattr(self.driver.capabilities, capability):
            pytest.skip(f"the capabilities of {type(self.driver).__name__} do not have {capability}")

    def needs_delays(self) -> None:
        """Skip the test where the broker has no delay for a single message."""
        if not self.max_delay_seconds:
            pytest.skip(f"the broker of {type(self.driver).__name__} has no delays (max_delay_seconds is 0)")

    def needs_stale_handles_to_be_detected(self) -> None:
        """Skip the test where the broker accepts the receipt handle of an earlier receive."""
        if not self.detects_stale_handles:
            pytest.skip(f"the broker of {type(self.driver).__name__} accepts stale receipt handles")

    def administration(self) -> BrokerAdministration:
        """Return the driver as an administrator; skip the test if it does not offer that."""
        if not isinstance(self.driver, BrokerAdministration):
            pytest.skip(f"{type(self.driver).__name__} does not offer BrokerAdministration")
        return self.driver

    def name(self, *, fifo: bool = False) -> str:
        """Return a unique name."""
        return f"contract-{uuid.uuid4().hex}" + (".fifo" if fifo else "")

    def topic(self, name: str | None = None, *, fifo: bool = False, **options: Any) -> Topic:
        """Declare a topic that is removed after the test."""
        topic = self.driver.declare_topic(name or self.name(fifo=fifo), **options)
        self._topics.append(topic)
        return topic

    def queue(self, *topics: Topic, name: str | None = None, fifo: bool = False, **options: Any) -> Queue:
        """Declare a queue that is removed after the test."""
        queue = self.driver.declare_queue(name or self.name(fifo=fifo), *topics, **options)
        self._queues.append(queue)
        return queue

    def publish(self, topic: Topic, *messages: Message) -> None:
        """Publish, and expect all to be accepted."""
        assert self.driver.publish(topic, messages) == []

    def send(self, queue: Queue, *messages: Message, delay_seconds: int = 0) -> None:
        """Send, and expect all to be accepted."""
        assert self.driver.send(queue, messages, delay_seconds=delay_seconds) == []

    def take(
        self, queue: Queue, count: int = 1, *, visibility_timeout_seconds: int = 30
    ) -> Sequence[Delivery]:
        """Receive until ``count`` deliveries have come, and expect them to."""
        deliveries: list[Delivery] = []

        def enough() -> bool:
            limit = min(count - len(deliveries), self.driver.capabilities.max_receive_batch)
            deliveries.extend(
                self.driver.receive(queue, limit, 0, visibility_timeout_seconds=visibility_timeout_seconds)
            )
            return len(deliveries) >= count

        self.until(enough, f"{count} deliveries from {queue.name}")
        return deliveries

    def arrived(self, queue: Queue) -> Message:
        """Receive one message."""
        (delivery,) = self.take(queue)
        assert delivery.queue.name == queue.name
        return delivery.message

    def acknowledge(self, *deliveries: Delivery) -> None:
        """Acknowledge, and expect it to succeed."""
        assert self.driver.acknowledge(deliveries) == []

    def expect_nothing(self, queue: Queue) -> None:
        """Expect that the queue delivers nothing now."""
        deliveries = self.driver.receive(queue, self.driver.capabilities.max_receive_batch, 0)

        assert bodies(deliveries) == []

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until ``condition`` holds, for at most ``patience_seconds`` of real time."""
        give_up_at = time.monotonic() + self.patience_seconds
        while not condition():
            assert time.monotonic() < give_up_at, f"waited {self.patience_seconds} s for {what}"
            _pause()


WRITTEN_AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def message(body: str = '{"event_type_name":"OrderPlaced"}', **fields: Any) -> Message:
    """Return a message with a new id, written some time ago."""
    return Message(str(uuid.uuid4()), body, **{"published_at": WRITTEN_AT, **fields})


def fifo_message(body: str, group: str = "group", **fields: Any) -> Message:
    """Return a message for a FIFO topic or queue, with new ids."""
    return message(
        body, **{"message_group_id": group, "message_deduplication_id": str(uuid.uuid4())} | fields
    )


def bodies(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the deliveries' bodies, in their order."""
    return [delivery.message.body for delivery in deliveries]


def in_parallel(*calls: Callable[[], ResultT]) -> list[ResultT]:
    """Run each call in its own thread; return their results, or raise the first exception."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def _pause() -> None:
    threading.Event().wait(_BETWEEN_POLLS_SECONDS)
