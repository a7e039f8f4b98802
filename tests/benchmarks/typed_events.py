"""Typed events to JSON text and back, beside the JSON work alone and beside the schema that judges."""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks import events
from benchmarks.measuring import Contender, Cost, Progress, Row, cost_per_item, cpu_of, interleaved
from melange.messages import Message
from melange.serialization.derivation import derived_schema
from melange.serialization.json import from_json, to_json
from melange.serialization.serializer import EventSerializer

EVENTS = 2_000
EVENT = "an order with two lines, Decimal, UUID, datetime"


def rows(repetitions: int, progress: Progress) -> list[Row]:
    """Compare writing and reading; CPU time."""
    serializer = EventSerializer()
    schema = derived_schema(events.OrderPlaced)
    name, body = serializer.encode(events.TYPED_ORDER)
    values = json.loads(body)
    message = Message("id", body, name)

    def read() -> None:
        serializer.load(*serializer.read(message), events.OrderPlaced)

    found = []
    for work, ours, bare, judge, aim in (
        (
            "write",
            lambda: serializer.encode(events.TYPED_ORDER),
            lambda: json.dumps(values),
            lambda: to_json(schema.dump(events.TYPED_ORDER)),
            "at most 2.2",
        ),
        (
            "read",
            read,
            lambda: json.loads(body),
            lambda: schema.load(from_json(body)),
            "at most 4.4",
        ),
    ):
        title = f"{work} a typed event: {EVENT}"
        costs = interleaved(
            title,
            {"melange": repeated(ours), "json": repeated(bare), "schema": repeated(judge)},
            repetitions,
            progress,
        )
        melange, bare_json, schema_alone = map(cpu_of, costs.values())
        found += [
            Row(title, melange, "`json` alone", bare_json, aim),
            Row(title, melange, "the schema, not compiled", schema_alone),
        ]
    return found


def repeated(work: Callable[[], object]) -> Contender:
    """Return the contender that does the work again and again."""

    def run() -> Cost:
        with cost_per_item(EVENTS) as cost:
            for _ in range(EVENTS):
                work()
        return cost

    return run
