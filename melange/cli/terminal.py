"""Tables and progress, drawn by rich; plain text where the output is not a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from melange.cli.logs import printable

_UNLIMITED = 10_000


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
