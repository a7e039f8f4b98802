"""How a command ends when it fails: its exit codes, and errors on one line."""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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

_OUR_DIRECTORIES = (Path(__file__).parent, Path(importlib.__file__).parent)


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
    return file_name.startswith("<frozen importlib") or any(
        Path(file_name).is_relative_to(directory) for directory in _OUR_DIRECTORIES
    )
