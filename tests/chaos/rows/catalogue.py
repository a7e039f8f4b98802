"""All runs by name, with their sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chaos.rows.broker_faults import broker_faults
from chaos.rows.crash import crash
from chaos.rows.fail_points import fail_points
from chaos.rows.fifo import fifo
from chaos.rows.paused import paused_workers
from chaos.rows.redis_outages import redis_outages
from chaos.rows.result import RowResult
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
}


def run_row(row: Row, services: Services, seed: int, *, short: bool) -> RowResult:
    """Run it at one of its sizes."""
    return row.run(services, seed, **(row.short if short else row.full))
