"""Measuring contenders side by side, so that what disturbs the machine disturbs all of them; and the tables as markdown."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from melange import ExchangeMessageConsumer


class Progress(Protocol):
    """Is told how far the measurements are."""

    def begin(self, title: str, steps: int) -> None:
        """A series of measurements begins."""

    def advance(self) -> None:
        """One measurement of the series is done."""


@dataclass(slots=True)
class Cost:
    """Seconds per item: CPU time of this process, all its threads, and the time that passed.

    ``switches`` is how often its threads waited for something per item, for example for the interpreter's lock.
    """

    cpu: float = 0.0
    wall: float = 0.0
    switches: float = 0.0


Contender = Callable[[], Cost]


@contextmanager
def cost_per_item(items: int) -> Iterator[Cost]:
    """Measure the block; the yielded cost is filled in at its end.

    Garbage is collected before, so that nobody pays for what another left behind; the collector runs as
    it does in an application.
    """
    cost = Cost()
    gc.collect()
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    wall, cpu = time.perf_counter(), time.process_time()
    yield cost
    cost.cpu = (time.process_time() - cpu) / items
    cost.wall = (time.perf_counter() - wall) / items
    cost.switches = (resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - switches) / items


def interleaved(
    title: str, contenders: Mapping[str, Contender], repetitions: int, progress: Progress
) -> dict[str, list[Cost]]:
    """Run A B C A B C ..., so that each repetition sees all of them on the same machine at about the same time.

    A first round warms up and does not count.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    progress.begin(title, (repetitions + 1) * len(contenders))
    for repetition in range(repetitions + 1):
        for name, run in contenders.items():
            cost = run()
            progress.advance()
            if repetition:
                costs[name].append(cost)
    return costs


def cpu_of(costs: Sequence[Cost]) -> list[float]:
    """Return the CPU times."""
    return [cost.cpu for cost in costs]


def wall_of(costs: Sequence[Cost]) -> list[float]:
    """Return the times that passed."""
    return [cost.wall for cost in costs]


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


def consume_all(consumer: ExchangeMessageConsumer, messages: int) -> None:
    """Consume so many messages with a plain loop."""
    settled = 0
    while settled < messages:
        settled += consumer.consume_event()
