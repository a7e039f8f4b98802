"""All runs by name, with their sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chaos.outbox.stage import POSTGRESQL, SQLITE
from chaos.rows.attempts import attempts
from chaos.rows.backpressure import backpressure
from chaos.rows.broker_faults import broker_faults
from chaos.rows.crash import crash
from chaos.rows.fail_points import fail_points
from chaos.rows.fifo import fifo
from chaos.rows.hang import hang
from chaos.rows.outbox import outbox
from chaos.rows.outbox_fail_points import outbox_fail_points
from chaos.rows.outbox_outages import outbox_outages
from chaos.rows.paused import paused_workers
from chaos.rows.poison import poison
from chaos.rows.redis_outages import redis_outages
from chaos.rows.result import RowResult
from chaos.rows.server_faults import server_faults
from chaos.rows.several import several_listeners
from chaos.rows.sigterm import sigterm
from chaos.rows.slow import slow_listeners
from chaos.rows.soak import soak
from chaos.scene import Services


@dataclass(frozen=True)
class Row:
    """A run and its two sizes."""

    run: Callable[..., RowResult]
    full: Mapping[str, Any]
    short: Mapping[str, Any]


ROWS = {
    "crash": Row(
        crash,
        full={"messages": 10_000, "kills": 100, "workers": 4},
        short={"messages": 200, "kills": 3, "workers": 2},
    ),
    "fail points": Row(fail_points, full={"deaths_each": 20}, short={"deaths_each": 1}),
    "broker faults": Row(
        broker_faults,
        full={"messages": 10_000, "workers": 4},
        short={"messages": 500, "workers": 2},
    ),
    "server faults": Row(
        server_faults,
        full={"messages": 10_000, "workers": 4},
        short={"messages": 500, "workers": 2},
    ),
    "redis": Row(
        redis_outages,
        full={"messages": 5_000, "kills": 10, "stalls": 5, "workers": 4},
        short={"messages": 200, "kills": 1, "stalls": 0, "workers": 2},
    ),
    "fifo": Row(
        fifo,
        full={"groups": 100, "each": 100, "kills": 50, "workers": 4},
        short={"groups": 10, "each": 20, "kills": 3, "workers": 2},
    ),
    "slow listeners": Row(
        slow_listeners, full={"messages": 5_000, "workers": 4}, short={"messages": 100, "workers": 1}
    ),
    "paused workers": Row(
        paused_workers,
        full={"messages": 2_000, "pauses": 30, "workers": 4},
        short={"messages": 50, "pauses": 1, "workers": 2},
    ),
    "sigterm": Row(sigterm, full={"stops": 100}, short={"stops": 2}),
    "soak": Row(soak, full={"messages": 1_000_000}, short={"messages": 20_000}),
    "several listeners": Row(
        several_listeners, full={"messages": 5_000, "workers": 4}, short={"messages": 200, "workers": 1}
    ),
    "poison": Row(poison, full={"messages": 1_000, "deadly": 10}, short={"messages": 40, "deadly": 1}),
    "attempts": Row(
        attempts,
        full={
            "minutes": 60,
            "messages": 1_500,
            "speed": 10,
            "visibility_timeout_seconds": 30,
            "busy_processes": 4,
        },
        short={
            "minutes": 4,
            "messages": 100,
            "speed": 40,
            "visibility_timeout_seconds": 120,
            "busy_processes": 0,
        },
    ),
    "backpressure": Row(
        backpressure,
        full={"groups": 5_000, "each": 4, "slow": 20_000, "seconds": 70},
        short={"groups": 100, "each": 2, "slow": 100, "seconds": 1},
    ),
    "hang": Row(
        hang,
        full={"messages": 5_000, "hanging": 40, "timeout_seconds": 2, "silence_seconds": 90},
        short={"messages": 100, "hanging": 4, "timeout_seconds": 0.5, "silence_seconds": 1},
    ),
    "outbox": Row(
        outbox,
        full={
            "database": POSTGRESQL,
            "transactions": 5_000,
            "kills": 50,
            "consumer_kills": 25,
            "writers": 4,
            "relays": 3,
            "consumers": 2,
        },
        short={
            "database": POSTGRESQL,
            "transactions": 100,
            "kills": 2,
            "consumer_kills": 1,
            "writers": 2,
            "relays": 2,
            "consumers": 1,
        },
    ),
    "outbox sqlite": Row(
        outbox,
        full={
            "database": SQLITE,
            "transactions": 5_000,
            "kills": 50,
            "consumer_kills": 25,
            "writers": 4,
            "relays": 2,
            "consumers": 2,
        },
        short={
            "database": SQLITE,
            "transactions": 100,
            "kills": 2,
            "consumer_kills": 1,
            "writers": 2,
            "relays": 2,
            "consumers": 1,
        },
    ),
    "outbox outages": Row(
        outbox_outages,
        full={"transactions": 5_000, "outages": 10, "writers": 4, "consumers": 2},
        short={"transactions": 100, "outages": 1, "writers": 2, "consumers": 1},
    ),
    "outbox fail points": Row(outbox_fail_points, full={"deaths_each": 20}, short={"deaths_each": 1}),
}


def run_row(row: Row, services: Services, seed: int, *, short: bool) -> RowResult:
    """Run it at one of its sizes."""
    return row.run(services, seed, **(row.short if short else row.full))
