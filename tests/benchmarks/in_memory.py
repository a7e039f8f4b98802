"""Publish and consume in memory, beside bare JSON work and beside kombu's in-memory transport."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable

from benchmarks.measuring import Row, medians, ratio

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, MemoryDeduplicationStore
from melange.drivers.memory import InMemoryDriver

EVENT = {
    "event_type_name": "ProductAdded",
    "product_id": 1,
    "name": "Coolers",
    "price": "12.50",
    "tags": ["summer", "garden"],
}
MESSAGES = 20_000


def bare_json() -> float:
    """Encode, put into a list, take out, decode: the least that any of them must do."""
    waiting: list[str] = []
    started = time.perf_counter()
    for _ in range(MESSAGES):
        waiting.append(json.dumps(EVENT))
    for body in waiting:
        json.loads(body)
    return (time.perf_counter() - started) / MESSAGES


def melange(queued: int = 0) -> Callable[[], float]:
    """One topic, one queue, one listener; ``queued`` messages lie in the queue all the while."""
    with InMemoryDriver() as driver:
        consumer = ExchangeMessageConsumer(
            "stock", "products", driver=driver, deduplication=MemoryDeduplicationStore(), wait_seconds=0
        )
        publisher = ExchangeMessagePublisher("products", driver)
        consumer.listener("ProductAdded", name="nothing")(lambda event: None)
        for _ in range(queued):
            publisher.publish(EVENT)

        def run() -> float:
            started = time.perf_counter()
            for _ in range(MESSAGES):
                publisher.publish(EVENT)
            settled = 0
            while settled < MESSAGES:
                settled += consumer.consume_event()
            return (time.perf_counter() - started) / MESSAGES

    return run
