"""The outbox on PostgreSQL: beside bare statements, with notifications, with a second relay process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

from sqlalchemy import Engine, create_engine

from benchmarks.child import orders, spawned
from benchmarks.measuring import Contender, Cost, Progress, Row, cost_per_item, interleaved, wall_of
from benchmarks.outlets import EVENTS, bare_statements, create_tables, outbox
from melange.drivers.memory import InMemoryDriver
from melange.errors import Failure
from melange.messages import Message, Topic
from melange.outbox import OutboxRelay

WRITES = 5
"""How often ``EVENTS`` are written before relays are measured."""

CALL_SECONDS = 0.01


class FarBroker(InMemoryDriver):
    """A broker that takes as long for each call as one that is a network away."""

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        time.sleep(CALL_SECONDS)
        return super().publish(topic, messages)


def rows(url: str, repetitions: int, progress: Progress) -> list[Row]:
    """Compare the ways on this server; the time that passed, since the server is another process."""
    engine = create_engine(url)
    try:
        create_tables(engine, sent=0)
        return [
            beside_bare_statements(engine, repetitions, progress),
            beside_no_notification(engine, repetitions, progress),
            *one_relay_beside_two(engine, repetitions, progress),
        ]
    finally:
        engine.dispose()


def beside_bare_statements(engine: Engine, repetitions: int, progress: Progress) -> Row:
    """Compare the way of events from ``publish`` until they are marked with the least."""
    costs = interleaved(
        "outbox on PostgreSQL",
        {"outbox": outbox(engine).measure_both, "bare": bare_statements(engine).measure_both},
        repetitions,
        progress,
    )
    ours, bare = map(wall_of, costs.values())
    work = "outbox on PostgreSQL: write, relay, mark; 10 in a transaction, wall time"
    return Row(work, ours, "bare statements", bare)


def beside_no_notification(engine: Engine, repetitions: int, progress: Progress) -> Row:
    """Compare transactions that wake relays with such that do not; nobody listens."""
    costs = interleaved(
        "outbox on PostgreSQL: notifications",
        {
            str(notify): outbox(engine, per_transaction=1, notify=notify).measure_writing
            for notify in (True, False)
        },
        repetitions,
        progress,
    )
    notifying, silent = map(wall_of, costs.values())
    work = "outbox on PostgreSQL: a transaction that publishes 1 event, wall time"
    return Row(work, notifying, "`notify=False`", silent)


def one_relay_beside_two(engine: Engine, repetitions: int, progress: Progress) -> list[Row]:
    """Compare two relay processes with one: on a broker that answers at once, and on a slow one."""
    found = []
    for driver, broker in (
        (InMemoryDriver, "one that answers at once"),
        (FarBroker, f"{1000 * CALL_SECONDS:.0f} ms a call"),
    ):
        work = f"outbox on PostgreSQL: two relay processes, broker: {broker}, wall time"
        with relays(engine, driver, 1) as one, relays(engine, driver, 2) as two:
            costs = interleaved(work, {"two": two, "one": one}, repetitions, progress)
        of_two, of_one = map(wall_of, costs.values())
        found.append(Row(work, of_two, "one", of_one))
    return found


@contextmanager
def relays(engine: Engine, driver: type[InMemoryDriver], count: int) -> Iterator[Contender]:
    """Yield the contender of so many relay processes that share what is pending."""
    url = engine.url.render_as_string(hide_password=False)
    outlet = outbox(engine)
    with ExitStack() as stack:
        connections = [stack.enter_context(spawned(serve, url, driver)) for _ in range(count)]

        def run() -> Cost:
            for _ in range(WRITES):
                outlet.write()
            with cost_per_item(WRITES * EVENTS) as cost:
                for connection in connections:
                    connection.send("relay")
                sent = sum(connection.recv() for connection in connections)
            outlet.tidy()
            assert sent == WRITES * EVENTS
            return cost

        yield run


def serve(connection: Connection, url: str, driver: type[InMemoryDriver]) -> None:
    """Relay what is pending each time when told, and say how much it was, until the other end is closed."""
    engine = create_engine(url)
    for _ in orders(connection):
        connection.send(OutboxRelay(engine, driver()).relay_pending())
