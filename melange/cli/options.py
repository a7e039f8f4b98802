"""Options, types of values and a progress bar for several commands."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from melange.cli import logs

_Command = TypeVar("_Command", bound=Callable[..., Any])

_DURATION = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LONGEST_DAYS = 36_500


def duration(text: str) -> int:
    """Return the number of seconds in ``90s``, ``15m``, ``12h`` or ``7d``, as the type of an option."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a duration: write 90s, 15m, 12h or 7d")
    seconds = int(found[1]) * _SECONDS[found[2]]
    if seconds > _LONGEST_DAYS * _SECONDS["d"]:
        raise click.BadParameter(f"{text!r} is more than {_LONGEST_DAYS:,} days")
    return seconds


def _in_a_directory(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no directory {path.parent}")
    return path


def health_file_option(what: str) -> Callable[[_Command], _Command]:
    """Return the option ``--health-file`` for a command that runs ``what``."""
    return click.option(
        "--health-file",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_in_a_directory,
        help=f"A file that is there, and touched every second, while the {what} does its work.",
    )


def log_options(command: _Command) -> _Command:
    """Add ``--log-level`` and ``--log-format``."""
    level = click.option(
        "--log-level", type=click.Choice(logs.LEVELS, case_sensitive=False), default="info", show_default=True
    )
    log_format = click.option(
        "--log-format", type=click.Choice(logs.FORMATS), default="text", show_default=True
    )
    return level(log_format(command))


@contextmanager
def progress_bar(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error, if that is a terminal; call what is yielded with the steps done."""
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=length, label=label, file=sys.stderr, hidden=hidden) as bar:
        yield bar.update
