"""What ``melange server`` and ``melange console`` share: an address, and serving HTTP there until a signal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import click

from melange.cli.failures import TRY_AGAIN, complain
from melange.signals import calling_on_signal, wait_until_set

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Served(AbstractContextManager[Any], Protocol):
    """Something that answers over HTTP until its block ends."""

    @property
    def url(self) -> str:
        """Its address."""


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


def serve_until_signal(
    name: str,
    start: Callable[[], Served],
    host: str,
    port: int,
    prepare: Callable[[str], None] = lambda _: None,
) -> None:
    """Start what listens on the address, ``prepare`` its URL, say that it is ready, and serve until SIGTERM or SIGINT.

    Ends the process if the address cannot be used.
    """
    stopping = threading.Event()
    with calling_on_signal(stopping.set):
        try:
            running = start()
        except OSError as error:
            complain(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port")
            sys.exit(TRY_AGAIN)
        with running:
            prepare(running.url)
            click.echo(f"melange {name} is ready at {running.url}")
            wait_until_set(stopping)
