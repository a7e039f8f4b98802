"""What the commands share: options, progress bars, errors and exit codes."""

from __future__ import annotations

import importlib
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from melange.cli import logs
from melange.cli.logs import printable, printable_lines
from melange.errors import ConfigurationError, MelangeError

logger = logging.getLogger(__name__)

TRY_AGAIN = 1
"""The exit code when another try may help: a service manager should restart the command."""

WRONG_USAGE = 2
"""The exit code when no restart can help: the command, the program or its installation has to change."""

_NEEDS_A_CHANGE = (ConfigurationError, ImportError, SyntaxError)
"""Exceptions that a program would raise at every start. Others may be temporary."""

_OUR_DIRECTORY = Path(__file__).parent
_OUR_DIRECTORIES = {
    _OUR_DIRECTORY,
    _OUR_DIRECTORY / "dead_letters",
    _OUR_DIRECTORY / "outbox",
    Path(importlib.__file__).parent,
}


class TargetError(Exception):
    """The program's own code failed while the command imported or called it; its error is the ``__cause__``."""


@contextmanager
def failures_shown() -> Iterator[None]:
    """End the process when the block fails, with an error on one line: see ``TRY_AGAIN`` and ``WRONG_USAGE``.

    What the program's own code has raised is shown with its traceback.
    """
    try:
        yield
    except TargetError as error:
        cause = _without_our_frames(error.__cause__ or error)
        complain(str(error), cause)
        sys.exit(WRONG_USAGE if isinstance(cause, _NEEDS_A_CHANGE) else TRY_AGAIN)
    except ConfigurationError as error:
        complain(str(error))
        sys.exit(WRONG_USAGE)
    except MelangeError as error:  # the broker, a database or credentials are unavailable, say
        complain(str(error))
        sys.exit(TRY_AGAIN)


def complain(message: str, error: BaseException | None = None) -> None:
    """Write an error on one line, after the traceback of ``error``; as a record if logs are JSON."""
    if logs.are_json():
        logger.critical(message, exc_info=error)
        return
    traceback_lines = printable_lines("".join(traceback.format_exception(error))) if error else []
    with suppress(OSError):  # of a full disk or a closed terminal: only the exit code is left
        click.echo("\n".join([*traceback_lines, f"Error: {printable(message)}"]), err=True)


def _without_our_frames(error: BaseException) -> BaseException:
    # The frames of this command and of importlib do not help.
    frame = error.__traceback__
    while frame is not None and _is_ours(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    return error.with_traceback(frame or error.__traceback__)


def _is_ours(file_name: str) -> bool:
    return file_name.startswith("<frozen importlib") or Path(file_name).parent in _OUR_DIRECTORIES


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


LAST_PORT = 65_535

_PORT = re.compile(r"(?:(?P<host>[^:]+|\[[0-9A-Fa-f:]+\]):)?(?P<port>[0-9]{1,5})", re.ASCII)


def _host_and_port(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    found = _PORT.fullmatch(text)
    if found is None or not 1 <= int(found["port"]) <= LAST_PORT:
        raise click.BadParameter(f"{text!r} is not a port: write 8080, or 127.0.0.1:8080")
    return (found["host"] or "").strip("[]"), int(found["port"])


def health_port_option(what: str) -> Callable[[_Command], _Command]:
    """Return the option ``--health-port`` for a command that runs ``what``; its value is a host and a port."""
    return click.option(
        "--health-port",
        metavar="[HOST:]PORT",
        callback=_host_and_port,
        help=f"Answer probes over HTTP, /live, /ready and /health, while the {what} runs.",
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
