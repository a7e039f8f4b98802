"""Publish and consume in memory, beside bare JSON work and beside kombu's in-memory transport."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kombu import Connection, Consumer, Exchange, Producer, Queue

from benchmarks import events
from benchmarks.measuring import (
    Contender,
    Cost,
    Progress,
    Row,
    consume_all,
    cost_per_item,
    cpu_of,
    interleaved,
)
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, MemoryDeduplicationStore, QueueOptions
from melange.drivers.memory import InMemoryDriver
from melange.middleware import Middleware

MESSAGES = 1_000
Event = dict[str, Any]


def rows(repetitions: int, progress: Progress) -> list[Row]:
    """Compare the small and the realistic event; CPU time."""
    found = []
    for event in (events.ORDER, events.SMALL):
        work = f"publish + consume in memory: {events.described(event)}"
        costs = interleaved(
            work,
            {
                "bare JSON work": bare_json(event),
                "in-memory driver": in_memory_driver(event),
                "kombu in memory": kombu(event),
            },
            repetitions,
            progress,
        )
        bare, ours, kombus = map(cpu_of, costs.values())
        aimed = event is events.ORDER
        found += [
            Row(work, ours, "bare JSON work", bare, "at most 2.6" if aimed else ""),
            Row(work, ours, "kombu", kombus, "at most 0.5" if aimed else ""),
        ]
    return found


def bare_json(event: Event) -> Contender:
    """Encode, append to a list, decode: the least that anyone must do."""

    def run() -> Cost:
        waiting: list[str] = []
        with cost_per_item(MESSAGES) as cost:
            for _ in range(MESSAGES):
                waiting.append(json.dumps(event))  # noqa: PERF401 - one by one, as messages come
            for body in waiting:
                json.loads(body)
        return cost

    return run


def in_memory_driver(event: Event, middleware: Sequence[Middleware] = ()) -> Contender:
    """Publish to a topic, consume from the queue bound to it with one listener; deduplication as by default."""
    driver = InMemoryDriver()
    driver.middleware = middleware
    publish, consume = publisher_and_consumer(driver)

    def run() -> Cost:
        with cost_per_item(MESSAGES) as cost:
            for _ in range(MESSAGES):
                publish(event)
            consume(MESSAGES)
        return cost

    return run


def publisher_and_consumer(driver: InMemoryDriver) -> tuple[Callable[[Event], str], Callable[[int], None]]:
    """Return a function that publishes an event, and one that consumes so many messages."""
    consumer = ExchangeMessageConsumer(
        "orders",
        "shop",
        driver=driver,
        deduplication=MemoryDeduplicationStore(),
        queue=QueueOptions(wait_seconds=0),
    )
    consumer.listener("OrderPlaced", "ProductAdded", name="nothing")(lambda event: None)
    publisher = ExchangeMessagePublisher("shop", driver)
    return publisher.publish, partial(consume_all, consumer)


def kombu(event: Event) -> Contender:
    """Publish to an exchange, consume from the queue bound to it with one callback that acknowledges."""
    channel = Connection("memory://").channel()
    exchange = Exchange("shop", type="fanout")
    queue = Queue("orders", exchange)
    queue(channel).declare()
    producer = Producer(channel, exchange, serializer="json")
    consumed = 0

    def listener(event: Event, message: Any) -> None:
        nonlocal consumed
        message.ack()
        consumed += 1

    def run() -> Cost:
        nonlocal consumed
        consumed = 0
        with cost_per_item(MESSAGES) as cost:
            for _ in range(MESSAGES):
                producer.publish(event)
            with Consumer(channel, [queue], callbacks=[listener]):
                while consumed < MESSAGES:
                    channel.connection.client.drain_events(timeout=1)
        return cost

    return run
