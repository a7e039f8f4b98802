"""The command ``melange outbox relay``."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from melange.cli import logs
from melange.cli.failures import TRY_AGAIN, failures_shown
from melange.cli.options import health_file_option, health_port_option, log_options
from melange.cli.outbox.database import database, database_url_option
from melange.cli.probes import HealthFile, health_served, health_shown, of_one
from melange.cli.targets import described, load_target
from melange.cli.terminal import progress
from melange.drivers.registry import DriverManager
from melange.errors import ConfigurationError
from melange.outbox import OutboxAdministration, OutboxRelay
from melange.outbox.relay import MAX_BATCH_SIZE
from melange.signals import calling_on_signal

logger = logging.getLogger(__name__)

_OF_THE_RELAY = ("driver_name", "batch_size", "poll_seconds", "no_declare")
_OF_ONE_THAT_GOES_ON = ("poll_seconds", "health_file", "health_port")


class _StopError(Exception):
    """A signal asks the relay to end after the current batch."""


@click.command(short_help="Publish the outbox until SIGTERM or SIGINT.")
@click.argument("target", metavar="[MODULE:ATTRIBUTE]", required=False)
@database_url_option(required=False)
@click.option("--driver", "driver_name", metavar="NAME", help="Where to publish.  [default: aws]")
@click.option(
    "--batch-size",
    type=click.IntRange(1, MAX_BATCH_SIZE),
    help="How many messages are published before they are marked.  [default: 100]",
)
@click.option(
    "--poll-seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    help="How long to wait when there is nothing to do.  [default: 0.5]",
)
@click.option(
    "--no-declare",
    is_flag=True,
    help="Create no topics: messages for a missing topic wait. Without it, a misspelt topic is created.",
)
@click.option("--until-empty", is_flag=True, help="Publish what is pending, then end.")
@health_file_option("relay")
@health_port_option("relay")
@log_options
@click.pass_context
def relay(
    context: click.Context,
    *,
    target: str | None,
    database_url: str | None,
    driver_name: str | None,
    batch_size: int | None,
    poll_seconds: float | None,
    no_declare: bool,
    until_empty: bool,
    health_file: Path | None,
    health_port: tuple[str, int] | None,
    log_level: str,
    log_format: str,
) -> None:
    """Publish the outbox until SIGTERM or SIGINT; a second signal ends at once.

    MODULE:ATTRIBUTE names an OutboxRelay, or a function without arguments that returns one. Without it the relay
    is for --database-url and --driver, which takes its options from the environment: aws as boto3 does.

    Exit codes: 0 stopped cleanly, or with --until-empty all has gone that could; 1 something could not go, or the
    relay had to give up; 2 wrong usage or configuration.
    """
    _check_usage(context)
    logs.configure(log_level, log_format)
    logger.info("melange %s relays %s", version("melange"), target or "what --database-url says")
    with failures_shown():
        if target is not None:
            having_relay: AbstractContextManager[OutboxRelay] = nullcontext(_load_relay(target))
        else:
            assert database_url is not None
            numbers = {"batch_size": batch_size, "poll_seconds": poll_seconds}
            given = {name: value for name, value in numbers.items() if value is not None}
            options = {**given, "declare": not no_declare}
            having_relay = _relay_of(database_url, driver_name or "aws", options)
        with having_relay as found:
            code = _relay_pending(found) if until_empty else _run(found, health_file, health_port)
    sys.exit(code)


def _check_usage(context: click.Context) -> None:
    given = [
        parameter
        for parameter in context.command.params
        if parameter.name
        and context.params[parameter.name] not in (None, False)
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    names = {parameter.name for parameter in given}

    def refuse(refused: tuple[str, ...], reason: str) -> None:
        for parameter in given:
            if parameter.name in refused:
                raise click.UsageError(f"{parameter.opts[0]} {reason}")

    if "target" in names:
        # A DATABASE_URL in the environment is the program's, as likely as not.
        refuse(("database_url",), "or MODULE:ATTRIBUTE: only one of them can say which outbox")
        refuse(_OF_THE_RELAY, "is not for MODULE:ATTRIBUTE: its relay has its own")
    elif context.params["database_url"] is None:
        raise click.UsageError("say which outbox: MODULE:ATTRIBUTE, or --database-url (or DATABASE_URL)")
    if "until_empty" in names:
        refuse(_OF_ONE_THAT_GOES_ON, "is not for --until-empty, which does not wait")


def _load_relay(target: str) -> OutboxRelay:
    found = load_target(target)
    if not isinstance(found, OutboxRelay):
        raise ConfigurationError(
            f"{target} is {described(found)}, and should be an OutboxRelay, or a function that returns one"
        )
    return found


@contextmanager
def _relay_of(database_url: str, driver_name: str, options: Mapping[str, Any]) -> Iterator[OutboxRelay]:
    if driver_name == "memory":
        raise ConfigurationError(
            "the driver 'memory' would lose all messages when this process ends: use another"
        )
    with (
        database(database_url) as engine,
        DriverManager.instance().use_driver(driver_name=driver_name) as driver,
    ):
        yield OutboxRelay(engine, driver, **options)


def _run(relay: OutboxRelay, health_file: Path | None, host_and_port: tuple[str, int] | None) -> int:
    probes = nullcontext(0) if host_and_port is None else health_served(of_one(relay), *host_and_port)
    with probes, health_shown(relay, None if health_file is None else HealthFile(health_file)):
        return relay.run()


def _relay_pending(relay: OutboxRelay) -> int:
    pending = sum(topic.pending for topic in OutboxAdministration(relay.engine).status())
    stopping = threading.Event()
    with calling_on_signal(stopping.set), progress("Relaying", pending) as advance:

        def show(count: int) -> None:
            advance(count)
            if stopping.is_set():
                raise _StopError

        try:
            published = relay.relay_pending(on_progress=show)
        except _StopError:
            logger.warning("stopped before the outbox was empty")
            return TRY_AGAIN
    logger.info("published %d messages", published)
    left = sum(topic.failed + topic.held for topic in OutboxAdministration(relay.engine).status())
    if left:
        logger.error("%d messages were refused, or are held by those: see `melange outbox failed`", left)
    return TRY_AGAIN if left else 0
