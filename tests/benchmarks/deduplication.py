"""What deduplication adds to consuming a message: in memory, and in a Redis on this machine."""

from __future__ import annotations

import itertools

from benchmarks import events
from benchmarks.measuring import (
    Contender,
    Cost,
    Count,
    Progress,
    Row,
    consume_all,
    cost_per_item,
    interleaved,
    wall_of,
)
from melange import (
    DeduplicationStore,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    MemoryDeduplicationStore,
    QueueOptions,
    RedisDeduplicationStore,
)
from melange.deduplication.base import NO_DEDUPLICATION, NoDeduplication
from melange.drivers.memory import InMemoryDriver
from services.redis import RedisServer

MESSAGES = 1_000


def rows(server: RedisServer, repetitions: int, progress: Progress) -> list[Row]:
    """Compare the stores with none, and Redis with the least that two round trips cost; time that passed."""
    title = "deduplication"
    costs = interleaved(
        title,
        {
            "none": consuming(NO_DEDUPLICATION),
            "memory": consuming(MemoryDeduplicationStore()),
            "Redis": consuming(RedisDeduplicationStore(server.url)),
            "two bare commands": two_commands(server),
        },
        repetitions,
        progress,
    )
    none, memory, redis, commands = map(wall_of, costs.values())
    without = "no deduplication"
    added = [ours - theirs for ours, theirs in zip(redis, none, strict=True)]
    return [
        Row("consume, marks in memory, wall time", memory, without, none),
        Row("consume, marks in Redis, wall time", redis, without, none),
        Row("what Redis adds, wall time", added, "two bare SETs", commands),
    ]


def counts(server: RedisServer) -> list[Count]:
    """Count what is sent to Redis for each message and listener; messages are consumed for that."""
    consuming(RedisDeduplicationStore(server.url))()
    with server.client() as client:
        client.config_resetstat()
        consuming(RedisDeduplicationStore(server.url))()
        sent = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    return [Count("Redis round trips per message and listener", sent / MESSAGES, "at most 2")]


def consuming(store: DeduplicationStore | NoDeduplication) -> Contender:
    """Consume what is queued with one listener that does nothing; publishing is not counted."""
    driver = InMemoryDriver()
    consumer = ExchangeMessageConsumer(
        "orders", "shop", driver=driver, deduplication=store, queue=QueueOptions(wait_seconds=0)
    )
    consumer.listener(name="nothing")(lambda event: None)
    publisher = ExchangeMessagePublisher("shop", driver)

    def run() -> Cost:
        for _ in range(MESSAGES):
            publisher.publish(events.ORDER)
        with cost_per_item(MESSAGES) as cost:
            consume_all(consumer, MESSAGES)
        return cost

    return run


def two_commands(server: RedisServer) -> Contender:
    """Send two of the cheapest writes for each message, as redis-py sends them."""
    client = server.client()
    numbers = itertools.count()

    def run() -> Cost:
        with cost_per_item(MESSAGES) as cost:
            for _ in range(MESSAGES):
                key = f"message-{next(numbers)}"
                client.set(key, "claimed", px=60_000)
                client.set(key, "done", px=60_000)
        return cost

    return run
