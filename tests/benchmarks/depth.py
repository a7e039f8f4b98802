"""A queue that holds a million messages beside one that holds ten."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from benchmarks import events
from benchmarks.in_memory import publisher_and_consumer
from benchmarks.measuring import Contender, Cost, Progress, cost_per_item, cpu_of, interleaved, ratio
from benchmarks.report import Row
from melange.drivers.memory import InMemoryDriver

MESSAGES = 1_000


def rows(repetitions: int, queued: int, in_flight: int, progress: Progress) -> list[Row]:
    """Compare a full queue with an almost empty one; CPU time."""
    work = f"publish + consume in memory with {queued:,} queued and {in_flight:,} in flight"
    with contender(10, 0) as empty, contender(queued, in_flight) as full:
        costs = interleaved(work, {"ten queued": empty, "many queued": full}, repetitions, progress)
    shallow, deep = map(cpu_of, costs.values())
    return [Row(work, deep, "ten queued", shallow, ratio(deep, shallow), "about 1")]


@contextmanager
def contender(queued: int, in_flight: int) -> Iterator[Contender]:
    """Yield the contender of a queue that holds so much, in a process of its own.

    In one process the garbage collector would look at the full queue's messages while the other is
    measured.
    """
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(there, queued, in_flight), daemon=True
    )
    process.start()
    there.close()

    def run() -> Cost:
        here.send("run")
        cost = here.recv()
        assert isinstance(cost, Cost)
        return cost

    try:
        yield run
    finally:
        here.close()
        process.join()


def serve(orders: Connection, queued: int, in_flight: int) -> None:
    """Fill a queue, then measure each time when told, until the other end is closed."""
    driver = InMemoryDriver()
    publish, consume = publisher_and_consumer(driver)
    for _ in range(in_flight + queued):
        publish(events.SMALL)
    queue = driver.get_queue("orders")
    received = 0
    while received < in_flight:
        received += len(driver.receive(queue, 10, 0, visibility_timeout_seconds=43_200))
    while True:
        try:
            orders.recv()
        except EOFError:
            return
        with cost_per_item(MESSAGES) as cost:
            for _ in range(MESSAGES):
                publish(events.SMALL)
            consume(MESSAGES)
        orders.send(cost)
