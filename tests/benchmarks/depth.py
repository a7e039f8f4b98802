"""A queue that holds a million messages beside one that holds ten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from benchmarks import events
from benchmarks.child import orders, spawned
from benchmarks.in_memory import publisher_and_consumer
from benchmarks.measuring import Contender, Cost, Progress, Row, cost_per_item, cpu_of, interleaved
from melange.drivers.memory import InMemoryDriver

MESSAGES = 1_000


def rows(repetitions: int, queued: int, in_flight: int, progress: Progress) -> list[Row]:
    """Compare a full queue with an almost empty one; CPU time."""
    work = f"publish + consume in memory with {queued:,} queued and {in_flight:,} in flight"
    with contender(10, 0) as empty, contender(queued, in_flight) as full:
        costs = interleaved(work, {"ten queued": empty, "many queued": full}, repetitions, progress)
    shallow, deep = map(cpu_of, costs.values())
    return [Row(work, deep, "ten queued", shallow, "about 1")]


@contextmanager
def contender(queued: int, in_flight: int) -> Iterator[Contender]:
    """Yield the contender of a queue that holds so much, in a process of its own.

    In one process the garbage collector would look at the full queue's messages while the other is
    measured.
    """
    with spawned(serve, queued, in_flight) as connection:

        def run() -> Cost:
            connection.send("run")
            cost = connection.recv()
            assert isinstance(cost, Cost)
            return cost

        yield run


def serve(connection: Connection, queued: int, in_flight: int) -> None:
    """Fill a queue, then measure each time when told, until the other end is closed."""
    driver = InMemoryDriver()
    publish, consume = publisher_and_consumer(driver)
    for _ in range(in_flight + queued):
        publish(events.SMALL)
    queue = driver.get_queue("orders")
    received = 0
    while received < in_flight:
        received += len(driver.receive(queue, 10, 0, visibility_timeout_seconds=43_200))
    for _ in orders(connection):
        with cost_per_item(MESSAGES) as cost:
            for _ in range(MESSAGES):
                publish(events.SMALL)
            consume(MESSAGES)
        connection.send(cost)
