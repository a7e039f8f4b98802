"""What a command says when it cannot do what it was asked for, and the code with which it ends."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from melange.cli.logs import printable
from melange.cli.processes import WRONG_USAGE
from melange.errors import ConfigurationError, MelangeError

_OUR_DIRECTORY = Path(__file__).parent
_OUR_DIRECTORIES = {_OUR_DIRECTORY, _OUR_DIRECTORY / "outbox", Path(importlib.__file__).parent}


@contextmanager
def failures_shown() -> Iterator[None]:
    """End the process on errors of melange that the block raises: 2 where the configuration is wrong, else 1.

    What the program's own code has raised is shown with its traceback.
    """
    try:
        yield
    except ConfigurationError as error:
        if error.__cause__ is not None:
            traceback.print_exception(_without_our_frames(error.__cause__))
        complain(str(error))
        sys.exit(WRONG_USAGE)
    except MelangeError as error:  # the broker can't be reached, say: another try may help
        complain(str(error))
        sys.exit(1)


def complain(message: str) -> None:
    """Write an error for the operator, on one line."""
    click.echo(f"Error: {printable(message)}", err=True)


def _without_our_frames(error: BaseException) -> BaseException:
    # The way to the program's own code, through this command and importlib, says nothing.
    frame = error.__traceback__
    while frame is not None and _is_ours(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    return error.with_traceback(frame or error.__traceback__)


def _is_ours(file_name: str) -> bool:
    return file_name.startswith("<frozen importlib") or Path(file_name).parent in _OUR_DIRECTORIES
