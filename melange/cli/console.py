"""``melange console``: topics, queues and dead letters of an AWS account in a browser."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import click

from melange.cli import logs
from melange.cli.failures import WRONG_USAGE, complain, failures_shown
from melange.cli.options import listening_options, log_options
from melange.cli.server import serve_until_signal

_PORT = 4567


@click.command(short_help="Show queues of AWS in a browser.")
@click.option("--region", help="The region.  [default: that of boto3]")
@click.option("--endpoint-url", help="The address of another SNS and SQS, such as a local server.")
@click.option("--prefix", default="", help="Show only topics and queues with this prefix.")
@listening_options(_PORT, "browsers reach the console")
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
        complain(f"melange console needs {missing}: pip install '.[server]' in a checkout of melange")
        sys.exit(WRONG_USAGE)
    # They need what may be missing, and take long to import, which `melange --help` should not.
    from melange.console.aws import AwsBackend  # noqa: PLC0415
    from melange.console.console import ConsoleServer  # noqa: PLC0415
    from melange.drivers.aws import AwsDriver  # noqa: PLC0415

    with failures_shown(), AwsDriver(region_name=region, endpoint_url=endpoint_url, prefix=prefix) as driver:
        backend = AwsBackend(driver, allows_purging=allow_purge)
        serve_until_signal(
            "console",
            lambda: ConsoleServer(backend, host=host, port=port, allowed_hosts=allowed_hosts),
            host,
            port,
        )
