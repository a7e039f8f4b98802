"""The outbox on SQLite: beside bare statements, beside itself with a million sent, beside doing without."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from benchmarks import events
from benchmarks.measuring import Contender, Cost, Progress, Row, cost_per_item, cpu_of, interleaved, wall_of
from benchmarks.outlets import Order, bare_statements, outbox, sqlite
from melange.outbox import Outbox

TRANSACTIONS = 100
AIM = "at most 200 µs"  # 5,000 events a second


def rows(repetitions: int, sent: int, progress: Progress) -> list[Row]:
    """Compare the whole way and its parts with the least, a full table with an empty one; CPU time mostly."""
    return [
        *whole(10, "WAL", repetitions, progress),
        *whole(10, "DELETE", repetitions, progress),
        *whole(100, "DELETE", repetitions, progress),
        *parts(repetitions, progress),
        *full_beside_empty(sent, repetitions, progress),
        *transactions(repetitions, progress),
    ]


def whole(per_transaction: int, journal: str, repetitions: int, progress: Progress) -> list[Row]:
    """Compare the way of events from ``publish`` until they are marked; without waiting for the disk, and with."""
    work = f"outbox: write, relay, mark; {per_transaction} in a transaction, journal {journal}"
    with sqlite(journal=journal) as ours, sqlite(journal=journal) as theirs:
        costs = interleaved(
            work,
            {
                "outbox": outbox(ours, per_transaction).measure_both,
                "bare": bare_statements(theirs, per_transaction).measure_both,
            },
            repetitions,
            progress,
        )
    found = []
    for name, times_of in ((work, cpu_of), (f"{work}, wall time", wall_of)):
        melange, bare = map(times_of, costs.values())
        found.append(Row(name, melange, "bare statements", bare, AIM))
    return found


def parts(repetitions: int, progress: Progress) -> list[Row]:
    """Compare writing and relaying with the statements of each."""
    with sqlite(journal="WAL") as ours, sqlite(journal="WAL") as theirs:
        costs = interleaved(
            "outbox: its parts",
            {
                "write": outbox(ours).measure_writing,
                "bare write": bare_statements(theirs).measure_writing,
                "relay": outbox(ours).measure_relaying,
                "bare relay": bare_statements(theirs).measure_relaying,
            },
            repetitions,
            progress,
        )
    write, insert, relay, update = map(cpu_of, costs.values())
    return [
        Row("outbox: write, 10 in a transaction", write, "bare `INSERT`", insert),
        Row("outbox: relay and mark", relay, "bare `SELECT`, `UPDATE`", update),
    ]


def full_beside_empty(sent: int, repetitions: int, progress: Progress) -> list[Row]:
    """Compare a table that has grown with one that has not."""
    with sqlite(journal="WAL") as empty, sqlite(journal="WAL", sent=sent) as full:
        costs = interleaved(
            f"outbox with {sent:,} sent",
            {
                "write": outbox(empty).measure_writing,
                "write, full": outbox(full).measure_writing,
                "relay": outbox(empty).measure_relaying,
                "relay, full": outbox(full).measure_relaying,
            },
            repetitions,
            progress,
        )
    write, write_full, relay, relay_full = map(cpu_of, costs.values())
    return [
        Row(
            f"outbox: {part}, {sent:,} sent in the table",
            ours,
            "none",
            theirs,
            "about 1",
        )
        for part, ours, theirs in (("write", write_full, write), ("relay and mark", relay_full, relay))
    ]


def transactions(repetitions: int, progress: Progress) -> list[Row]:
    """Compare a transaction of the application that publishes with the same one that does not."""
    with sqlite(journal="WAL") as engine:
        costs = interleaved(
            "outbox: the application's transaction",
            {str(published): transaction(engine, published) for published in (0, 1, 10)},
            repetitions,
            progress,
        )
    alone, with_one, with_ten = map(cpu_of, costs.values())
    return [
        Row(f"a transaction: one row of its own, {what}", ours, "that row alone", alone)
        for what, ours in (("1 event published", with_one), ("10 events published", with_ten))
    ]


def transaction(engine: Engine, published: int) -> Contender:
    """Return the contender that adds a row of the application's, and publishes so many events with it."""

    def run() -> Cost:
        with cost_per_item(TRANSACTIONS) as cost:
            for number in range(TRANSACTIONS):
                with Session(engine) as session, session.begin():
                    session.add(Order(total="149.70"))
                    if published:
                        outbox = Outbox(session)
                        for _ in range(published):
                            outbox.publish("orders", events.ORDER, key=number)
        return cost

    return run
