"""The options that several commands have."""

from __future__ import annotations

import re
from collections.abc import Callable
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
        help=f"A file that exists, and is touched every second, while the {what} is ready.",
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


json_option = click.option("--json", "in_json", is_flag=True, help="Write JSON.")


def log_options(command: _Command) -> _Command:
    """Add ``--log-level`` and ``--log-format``."""
    level = click.option(
        "--log-level",
        type=click.Choice(logs.LEVELS, case_sensitive=False),
        default="info",
        show_default=True,
        help="The lowest level that is logged.",
    )
    log_format = click.option(
        "--log-format",
        type=click.Choice(logs.FORMATS),
        default="text",
        show_default=True,
        help="Lines for people, or objects for programs.",
    )
    return level(log_format(command))


def listening_options(default_port: int, clients: str) -> Callable[[_Command], _Command]:
    """Return ``--host``, ``--port`` and ``--allowed-host`` for a command that ``clients`` reach over HTTP."""
    host = click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
    port = click.option(
        "--port",
        default=default_port,
        show_default=True,
        type=click.IntRange(0, 65_535),
        help="The port to listen on; 0 takes a free one.",
    )
    allowed = click.option(
        "--allowed-host",
        "allowed_hosts",
        multiple=True,
        help=f"A name with dots under which {clients}.",
    )
    return lambda command: host(port(allowed(command)))
