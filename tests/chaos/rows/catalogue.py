"""All runs by name, with their sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chaos.rows.crash import crash
from chaos.rows.result import RowResult
from chaos.stage import Services


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
        short={"messages": 300, "kills": 5, "workers": 2},
    ),
}


def run_row(row: Row, services: Services, seed: int, *, short: bool) -> RowResult:
    """Run it at one of its sizes."""
    return row.run(services, seed, **(row.short if short else row.full))
