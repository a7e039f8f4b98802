"""``melange console``: topics, queues and dead letters of an AWS account in a browser."""

from __future__ import annotations

import sys
import threading
from importlib.util import find_spec

import click

from melange.cli import logs
from melange.cli.options import TRY_AGAIN, WRONG_USAGE, complain, log_options
from melange.drivers.aws import AwsDriver
from melange.errors import MelangeError
from melange.signals import calling_on_signal, wait_until_set

_PORT = 4567


@click.command()
@click.option("--region", help="The region.  [default: that of boto3]")
@click.option("--endpoint-url", help="Another SNS and SQS than those of AWS.")
@click.option("--prefix", default="", help="Show only topics and queues with this prefix.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    default=_PORT,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="0 takes a free one.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    help="A name with dots under which browsers reach the console.",
)
@click.option("--allow-purge", is_flag=True, help="Offer to purge queues, after a question.")
@log_options
def console(
    *,
    region: str | None,
    endpoint_url: str | None,
    prefix: str,
    host: str,
    port: int,
    allowed_hosts: tuple[str, ...],
    allow_purge: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Show topics, queues and dead letters of an AWS account in a browser, until SIGTERM or Ctrl-C.

    Credentials are those of boto3. There is no login: leave --host at a loopback address.
    """
    logs.configure(log_level, log_format)
    missing = next((name for name in ("cryptography", "jinja2") if find_spec(name) is None), None)
    if missing:
        complain(f"melange console needs {missing}: pip install 'melange[server]'")
        sys.exit(WRONG_USAGE)
    # Only now: they need what may be missing.
    from melange.console.aws import AwsBackend  # noqa: PLC0415
    from melange.console.standalone import ConsoleServer  # noqa: PLC0415

    stopping = threading.Event()
    with calling_on_signal(stopping.set):
        try:
            driver = AwsDriver(region_name=region, endpoint_url=endpoint_url, prefix=prefix)
        except MelangeError as error:
            complain(str(error))
            sys.exit(WRONG_USAGE)
        with driver:
            try:
                backend = AwsBackend(driver, allows_purging=allow_purge)
                running = ConsoleServer(backend, host=host, port=port, allowed_hosts=allowed_hosts)
            except OSError as error:
                complain(
                    f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port"
                )
                sys.exit(TRY_AGAIN)
            with running:
                click.echo(f"melange console is ready at {running.url}")
                wait_until_set(stopping)
