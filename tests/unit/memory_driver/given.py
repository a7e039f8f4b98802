"""What the tests of the in-memory driver hand in, and how they look at what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from melange.drivers.memory import InMemoryDriver
from melange.messages import Delivery, Message, Queue
from waiting import eventually


def messages(*texts: str) -> list[Message]:
    return [Message(f"id-of-{text}", text) for text in texts]


def fifo_messages(*texts: str, group: str = "group") -> list[Message]:
    return [
        Message(f"id-of-{text}", text, message_group_id=group, message_deduplication_id=text)
        for text in texts
    ]


def bodies(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.message.body for delivery in deliveries]


def start_receive(
    pool: ThreadPoolExecutor, driver: InMemoryDriver, queue: Queue, wait_seconds: int = 20
) -> Future[list[Delivery]]:
    """Start a receive in a thread and return once it waits."""
    receiver = pool.submit(driver.receive, queue, 10, wait_seconds)
    waiters = driver._broker.queues[queue.address].stored.waiters
    eventually(lambda: bool(waiters))
    return receiver
