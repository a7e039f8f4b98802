"""The figures as markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. ``ours`` and ``theirs`` are seconds of the same repetitions, which are shown in ``unit``."""

    work: str
    ours: Sequence[float]
    rival: str
    theirs: Sequence[float]
    aim: str = ""
    unit: str = "µs"


@dataclass(frozen=True, slots=True)
class Count:
    """Something counted rather than measured."""

    what: str
    count: float
    aim: str = ""


_PER_SECOND = {"µs": 1e6, "ms": 1e3}


def table_of_rows(rows: Sequence[Row], ours: str = "melange") -> str:
    """Return the comparisons as a table; the ratio is the median of the pairs, with the range of their middle half."""
    lines = [
        f"| work | {ours} | beside | | ratio, pair by pair | aim |",
        "|---|---:|---|---:|---:|---|",
    ]
    for row in rows:
        our_median, their_median = (_median(values, row.unit) for values in (row.ours, row.theirs))
        lines.append(
            f"| {row.work} | {our_median} | {row.rival} | {their_median} | {_ratio(row)} | {row.aim} |"
        )
    return "\n".join(lines)


def table_of_counts(counts: Sequence[Count]) -> str:
    """Return the counts as a table."""
    lines = ["| counted | | aim |", "|---|---:|---|"]
    lines += [f"| {count.what} | {count.count:.3f} | {count.aim} |" for count in counts]
    return "\n".join(lines)


def _ratio(row: Row) -> str:
    pairs = [one / other for one, other in zip(row.ours, row.theirs, strict=True)]
    lower, median, upper = statistics.quantiles(pairs, n=4)
    return f"**{median:.2f}** ({lower:.2f} to {upper:.2f})"


def _median(seconds: Sequence[float], unit: str) -> str:
    return f"{statistics.median(seconds) * _PER_SECOND[unit]:.1f} {unit}"
