"""Tables, progress, counts and ages for people; plain text where the output is not a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from melange.cli.logs import printable

_UNLIMITED = 10_000
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


def show_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    """Write a table to standard output: fitted to a terminal, otherwise one line for each row, uncut.

    ``right`` names the columns of numbers. Nothing in a cell is taken for markup, and control characters are escaped.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if cell is None else printable(str(cell))) for cell in row))
    is_terminal = sys.stdout.isatty()
    text = io.StringIO()
    width = None if is_terminal else _UNLIMITED
    Console(file=text, width=width, force_terminal=is_terminal, highlight=False).print(table)
    click.echo("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar with its rate on standard error, if that is a terminal; call what is yielded with the steps done.

    ``total`` may be an estimate: the bar then goes beyond it.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bars:
        task = bars.add_task(label, total=total, rate="")

        def advance(steps: int) -> None:
            bars.update(task, advance=steps)
            one = bars.tasks[0]
            bars.update(
                task,
                rate=f"{one.speed:,.0f}/s" if one.speed else "",
                total=None if total is None else max(total, one.completed),
            )

        yield advance


def counted(count: int, noun: str) -> str:
    """Return the number with its noun: 1 message, 1,200 messages."""
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


def seconds_since(time: datetime) -> float:
    """Return the seconds since then; 0 if the clock of the writer was ahead."""
    return max(0.0, (datetime.now(UTC) - time).total_seconds())


def age_since(time: datetime | None) -> str:
    """Return the age in its largest unit; a dash if there is no readable time."""
    return "-" if time is None else age(seconds_since(time))


def age(seconds: float) -> str:
    """Return a duration in its largest unit, rounded down: 45s, 12m, 5h, 3d."""
    for name, length in _UNITS:
        if seconds >= length:
            return f"{seconds // length:.0f}{name}"
    return f"{seconds:.0f}s" if seconds < 59.5 else "59s"
