"""Run the benchmarks and print their figures as markdown: ``tox -e benchmarks -- --help``.

Figures go to standard output, a progress bar to standard error. Ratios are what counts: they are taken pair by
pair from repetitions that take turns (A B A B ...), so that a busy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID

from benchmarks import (
    asynchronous,
    beside,
    deduplication,
    depth,
    importing,
    in_memory,
    outbox,
    outbox_postgresql,
    profiling,
    sns_sqs,
    telemetry,
    typed_events,
    walk,
    worker,
)
from benchmarks.aws import rows as aws
from benchmarks.measuring import Count, Row, table_of_counts, table_of_rows
from services import ministack, postgres, redis

GROUPS = (
    "in-memory",
    "typed-events",
    "depth",
    "sns-sqs",
    "worker",
    "deduplication",
    "outbox",
    "outbox-postgresql",
    "asyncio",
    "telemetry",
    "import",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "groups",
        nargs="*",
        metavar="GROUP",
        help=f"all by default: {', '.join(GROUPS)}; or walk, or aws, alone; or beside REVISION, "
        "to compare this code with another commit",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer repetitions, 100,000 messages queued or sent"
    )
    parser.add_argument(
        "--profile", action="store_true", help="where the time goes, instead of how much it is"
    )
    parser.add_argument("--in-order", action="store_true", help="with `walk`: every function on the way")
    parser.add_argument("--endpoint-url", help="an SNS+SQS server that runs already, instead of MiniStack")
    parser.add_argument("--python", help="with `aws`: the version of Python of all contestants, such as 3.13")
    options = parser.parse_args(arguments)
    if options.groups == ["aws"]:
        print(machine())
        with progress_bars() as progress:
            print(aws.measure(7 if options.quick else 25, options.python, progress))
        return
    if options.groups[:1] == ["beside"]:
        if len(options.groups) != 2:
            parser.error("write: beside REVISION")
        print(machine())
        with progress_bars() as progress:
            print(beside.measure(options.groups[1], 28 if options.quick else 100, progress))
        return
    if options.groups == ["walk"]:
        with server(options.endpoint_url) as url:
            walk.print_walks(url, in_order=options.in_order)
        return
    groups = options.groups or GROUPS
    if unknown := set(groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    print(machine())
    if options.profile:
        profile(groups, options.endpoint_url)
    else:
        with progress_bars() as progress:
            measure(groups, options.endpoint_url, quick=options.quick, progress=progress)


def measure(  # noqa: PLR0912 - one branch for each group
    groups: Sequence[str], endpoint_url: str | None, *, quick: bool, progress: ProgressBars
) -> None:
    """Measure the groups and print their tables."""
    repetitions = 7 if quick else 25
    rows: list[Row] = []
    counts: list[Count] = []
    if "in-memory" in groups:
        rows += in_memory.rows(repetitions, progress)
    if "typed-events" in groups:
        rows += typed_events.rows(repetitions, progress)
    if "depth" in groups:
        queued, in_flight = (100_000, 10_000) if quick else (1_000_000, 100_000)
        rows += depth.rows(repetitions, queued, in_flight, progress)
    if "sns-sqs" in groups:
        with server(endpoint_url) as url:
            rows += sns_sqs.rows(url, repetitions, progress)
            settings = sns_sqs.rows_of_settings(url, repetitions, progress)
            counts += sns_sqs.counts(url)
    if "worker" in groups:
        of_workers, counts_of_workers = worker.rows(repetitions, progress)
        rows += of_workers
        counts += counts_of_workers
        with server(endpoint_url) as url:
            counts += worker.counts(url)
    if "deduplication" in groups:
        with redis.run() as redis_server:
            rows += deduplication.rows(redis_server, repetitions, progress)
            counts += deduplication.counts(redis_server)
    if "outbox" in groups:
        rows += outbox.rows(repetitions, 100_000 if quick else 1_000_000, progress)
    if "outbox-postgresql" in groups:
        with postgres.run() as postgres_server:
            rows += outbox_postgresql.rows(postgres_server.url, repetitions, progress)
    if "asyncio" in groups:
        with server(endpoint_url) as url:
            counts += asynchronous.counts(url, repetitions, progress)
    if "telemetry" in groups:
        of_telemetry, counts_of_telemetry = telemetry.rows(repetitions, progress)
        rows += of_telemetry
        counts += counts_of_telemetry
    if "import" in groups:
        rows += importing.rows(15, progress)
    print(table_of_rows(rows))
    if counts:
        print("\n" + table_of_counts(counts))
    if "sns-sqs" in groups:
        print("\n" + table_of_rows(settings, ours="with it"))


def profile(groups: Sequence[str], endpoint_url: str | None) -> None:
    """Profile the groups that run in this process, and the import."""
    if "in-memory" in groups:
        profiling.print_in_memory()
    if "sns-sqs" in groups:
        with server(endpoint_url) as url:
            profiling.print_sns_sqs(url)
    if "outbox" in groups:
        profiling.print_outbox()
    if "import" in groups:
        profiling.print_import()


@contextmanager
def server(endpoint_url: str | None) -> Iterator[str]:
    """Yield the server's URL; start one if none was named."""
    with nullcontext(endpoint_url) if endpoint_url else ministack.run() as url:
        yield url


def machine() -> str:
    """Return a line on where and when the figures were taken."""
    load = os.getloadavg()[0]
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("boto3", "kombu", "marshmallow", "sqlalchemy")
    )
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start, {versions}\n"
    )


class ProgressBars:
    """One bar for each series of measurements."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def begin(self, title: str, steps: int) -> None:
        self._task = self._bars.add_task(title, total=steps)

    def advance(self) -> None:
        assert self._task is not None
        self._bars.advance(self._task)


@contextmanager
def progress_bars() -> Iterator[ProgressBars]:
    """Show progress on standard error, if that is a terminal."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        yield ProgressBars(bars)


if __name__ == "__main__":
    main()
