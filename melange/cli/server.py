"""``melange server``: a local SNS and SQS."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import click

from melange.cli import logs
from melange.cli.failures import TRY_AGAIN, WRONG_USAGE, complain, failures_shown
from melange.cli.options import listening_options, log_options
from melange.engine.standard import Disorder
from melange.errors import ConfigurationError
from melange.server import Broker, Server
from melange.server.authentication import Key
from melange.server.calls import DEFAULT_ACCOUNT, DEFAULT_REGION
from melange.server.server import DEFAULT_PORT
from melange.signals import calling_on_signal, wait_until_set

logger = logging.getLogger(__name__)

_SIZE = re.compile(r"(\d{1,9})([kmg])", re.ASCII | re.IGNORECASE)
_UNITS = {"k": 1_024, "m": 1_048_576, "g": 1_073_741_824}
_KEY = re.compile(r"(\w{16,128})\s+(\S+)(?:\s+(\d{12}))?", re.ASCII)


def size(text: str) -> int:
    """Return the number of bytes in ``512m`` or ``2g``, as the type of an option."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a size: write 512m or 2g")
    return int(found[1]) * _UNITS[found[2].lower()]


@click.command(short_help="Run a local SNS and SQS for any SDK.")
@listening_options(DEFAULT_PORT, "clients reach the server")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep topics, queues and messages in this directory, through restarts and kills.  [default: in memory]",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Enforce AWS's waits of sixty seconds: between two purges, and after a queue was deleted.",
)
@click.option(
    "--verify-signatures",
    "keys_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Accept only requests signed with a key of this file. A line has an id, a secret and, if there are several, the "
    "account.",
)
@click.option(
    "--max-memory",
    type=size,
    default="1g",
    show_default=True,
    help="Refuse sends while messages take more memory than this.",
)
@click.option(
    "--duplicates",
    default=0.0,
    help="The share of messages that standard queues deliver twice, such as 0.01.",
)
@click.option("--shuffle", is_flag=True, help="Standard queues deliver out of order, as they may on AWS.")
@click.option("--seed", type=int, help="Make duplicates and order the same in each run.")
@click.option(
    "--topology",
    "topology_paths",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Make what a file of `melange topology export --format json` declares, before the server is ready; may be repeated.",
)
@click.option(
    "--init",
    "init_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Python program that runs before the server is ready, with AWS_ENDPOINT_URL set.",
)
@click.option("--no-console", is_flag=True, help="Leave out the console, the pages for a browser.")
@log_options
def server(
    *,
    host: str,
    port: int,
    allowed_hosts: tuple[str, ...],
    data: Path | None,
    strict: bool,
    keys_path: Path | None,
    max_memory: int,
    duplicates: float,
    shuffle: bool,
    seed: int | None,
    topology_paths: tuple[Path, ...],
    init_path: Path | None,
    no_console: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Run a local SNS and SQS for any SDK, until SIGTERM or Ctrl-C."""
    logs.configure(log_level, log_format)
    if find_spec("cryptography") is None:
        complain(
            "melange server needs cryptography, to sign notifications: pip install '.[server]' in a checkout of melange"
        )
        sys.exit(WRONG_USAGE)
    with failures_shown():
        _allow_connections()
        keys = _read_keys(keys_path) if keys_path else None
        disorder = Disorder(seed=seed, duplicates=duplicates, shuffle=shuffle)
        broker = Broker(strict=strict, disorder=disorder, max_bytes=max_memory)
        serve_until_signal(
            "server",
            lambda: Server(
                broker,
                data=data,
                host=host,
                port=port,
                allowed_hosts=allowed_hosts,
                keys=keys,
                console=not no_console,
            ),
            host,
            port,
            lambda url: _prepare(url, keys, topology_paths, init_path),
        )


def _allow_connections() -> None:
    """Take as many open files as this user may have: each connection is one, and 1,024 are the usual default."""
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems say that there is no limit, and have one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _prepare(
    url: str, keys: dict[str, Key] | None, topology_paths: tuple[Path, ...], init_path: Path | None
) -> None:
    """Make what the files declare, and run the program; end the process if that fails."""
    key_id, key = next(iter((keys or {}).items()), ("test", Key("test")))
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
    # The server itself uses no credentials.
    os.environ.update(
        AWS_ENDPOINT_URL=url,
        AWS_ACCESS_KEY_ID=key_id,
        AWS_SECRET_ACCESS_KEY=key.secret,
        AWS_DEFAULT_REGION=region,
    )
    os.environ.pop("AWS_PROFILE", None)
    for path in topology_paths:
        logger.info("%s: %d changes made", path, _declare(path, url, region))
    if init_path is not None:
        ended = subprocess.run([sys.executable, init_path], check=False)  # noqa: S603 - given by the user
        if ended.returncode:
            complain(f"{init_path} ended with exit code {ended.returncode}")
            sys.exit(TRY_AGAIN)


def _declare(path: Path, url: str, region: str) -> int:
    """Make what a file declares; return the number of changes."""
    # boto3 takes as long to import as all the rest of the server.
    from melange.drivers.aws import AwsDriver  # noqa: PLC0415
    from melange.topology import apply_plan, from_document, make_plan  # noqa: PLC0415

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}") from None
    with AwsDriver(endpoint_url=url, region_name=region) as driver:
        return len(apply_plan(make_plan(from_document(document), driver)).done)


def _read_keys(path: Path) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _KEY.fullmatch(line.strip())
        if found is None:
            raise click.BadParameter(
                f"line {number} of {path} is not an access key id, a secret and perhaps an account of 12 digits"
            )
        keys[found[1]] = Key(found[2], found[3] or DEFAULT_ACCOUNT)
    return keys


class Served(AbstractContextManager[Any], Protocol):
    """Something that answers over HTTP until its block ends."""

    @property
    def url(self) -> str:
        """Its address."""


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
