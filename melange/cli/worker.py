"""The command ``melange worker``."""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path

import click

from melange.cli import logs
from melange.cli.failures import failures_shown
from melange.cli.options import (
    LAST_PORT,
    health_file_option,
    health_port_option,
    log_options,
)
from melange.cli.probes import HealthFile, health_served, health_shown, of_one, of_processes
from melange.cli.processes import LEFT_WORK_BEHIND, Lifeline, ProcessGroup
from melange.cli.targets import check_form, load_worker
from melange.consuming.worker import Worker
from melange.drivers.memory import InMemoryDriver
from melange.errors import ConfigurationError
from melange.signals import pausing_on_signals

logger = logging.getLogger(__name__)


@click.command(short_help="Run listeners until SIGTERM or SIGINT.")
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help="The deliveries that are processed at once, for all queues together.  [default: 10]",
)
@click.option(
    "--grace-seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    help="How long listeners may continue after the stop.  [default: 25]",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="The number of processes, each with its own concurrency; lost ones are replaced.",
)
@health_file_option("worker")
@health_port_option("worker")
@log_options
@click.option("--process-number", type=int, hidden=True, help="The number of this process.")
def worker(
    *,
    target: str,
    concurrency: int | None,
    grace_seconds: float | None,
    processes: int,
    health_file: Path | None,
    health_port: tuple[str, int] | None,
    log_level: str,
    log_format: str,
    process_number: int | None,
) -> None:
    """Consume until SIGTERM or SIGINT; a second one ends at once. SIGUSR1 pauses, SIGUSR2 resumes.

    MODULE:ATTRIBUTE, such as shop.consumers:stock, names a Worker, an ExchangeMessageConsumer, a list of consumers, or
    a function without arguments that returns one of these.

    Exit codes: 0 stopped with nothing left behind; 1 work was left behind, or another try may help; 2 wrong
    usage, or a program that fails at every start.
    """
    logs.configure(log_level, log_format)
    with failures_shown():
        check_form(target)
    file = HealthFile(health_file) if health_file is not None else None
    if processes > 1 and process_number is None:
        logger.info("melange %s runs %s in %d processes", version("melange"), target, processes)
        with failures_shown(), _probes_of_group(health_port, processes):
            code = ProcessGroup([_command(number) for number in range(1, processes + 1)], file).run()
        sys.exit(code)
    place = f"process {process_number} of {processes}" if process_number is not None else "one process"
    logger.info("melange %s runs %s in %s", version("melange"), target, place)
    lifeline = Lifeline() if process_number is not None else None
    with failures_shown():
        loaded = load_worker(target, concurrency=concurrency, grace_seconds=grace_seconds)
        if lifeline is not None:
            _refuse_brokers_in_memory(loaded)
            lifeline.stops(loaded)
        with _probes_of(loaded, health_port, process_number or 0):
            code = _run(loaded, file.of_process(process_number) if file and process_number else file)
    sys.exit(LEFT_WORK_BEHIND if code and lifeline is not None else code)


def _refuse_brokers_in_memory(loaded: Worker) -> None:
    # Each process would have a broker of its own, and run the work of all others once more.
    for consumer in loaded.consumers:
        if isinstance(consumer.driver, InMemoryDriver):
            raise ConfigurationError(
                f"queue {consumer.queue.name} is on the in-memory driver, which several processes cannot share: leave "
                "--processes out, or use the driver 'aws'"
            )


def _command(process_number: int) -> list[str]:
    # The same arguments once more: every process reads them as this one did.
    command, *arguments = sys.argv[1:]
    return [sys.executable, "-m", "melange.cli", command, "--process-number", str(process_number), *arguments]


def _probes_of(
    loaded: Worker, host_and_port: tuple[str, int] | None, number: int
) -> AbstractContextManager[object]:
    if host_and_port is None:
        return nullcontext()
    host, port = host_and_port
    return health_served(of_one(loaded), host, port + number)


def _probes_of_group(host_and_port: tuple[str, int] | None, processes: int) -> AbstractContextManager[object]:
    if host_and_port is None:
        return nullcontext()
    host, port = host_and_port
    if port + processes > LAST_PORT:
        raise ConfigurationError(
            f"--health-port {port} leaves no ports for {processes} processes, which take the next ones: give at most "
            f"{LAST_PORT - processes}"
        )
    return health_served(of_processes(host, range(port + 1, port + processes + 1)), host, port)


def _run(loaded: Worker, health_file: HealthFile | None) -> int:
    with health_shown(loaded, health_file), pausing_on_signals(loaded.pause, loaded.resume):
        code = loaded.run()
    if code:
        logger.error("the worker has ended with work left behind, or gave up")
    else:
        logger.info("the worker has stopped")
    return code
