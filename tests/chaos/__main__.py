"""Run the long form of the chaos runs and print a table as markdown: ``tox -e chaos -- --help``.

Exits with 1 when a run shows anything wrong, or a worker that was broken on purpose is not caught. The table
goes to standard output, progress to standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from chaos.checker import Findings
from chaos.controls import CONTROLS
from chaos.inside.controls import CONTROLS as INSIDE_CONTROLS
from chaos.rows import ROWS, run_row
from chaos.rows.result import RowResult
from chaos.scene import Services
from services import ministack, postgres, redis

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}
COLUMNS = {
    "lost": "lost",
    "stuck": "stuck",
    "unexpected": "unexpected",
    "wrongly_dead_lettered": "wrongly dead-lettered",
    "out_of_order": "out of order",
    "two_at_once": "two at once in a group",
    "unexplained_duplicates": "unexplained duplicates",
    "explained_duplicates": "explained duplicates",
    "stale_completes": "stale marks",
    "stale_acknowledges": "stale acknowledges",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all by default: {', '.join(ROWS)}")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from --first-seed on")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep journals and logs there")
    parser.add_argument("--short", action="store_true", help="scaled down, as in the tests")
    parser.add_argument("--rows-only", action="store_true", help="leave the negative controls out")
    options = parser.parse_args(arguments)
    names = options.rows or list(ROWS)
    if unknown := set(names) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    os.environ.update(CREDENTIALS)
    if options.keep:  # of the runs inside this process; the others have a log each
        options.keep.mkdir(parents=True, exist_ok=True)
        logging.basicConfig(
            filename=options.keep / "log", format="%(asctime)s %(threadName)s %(levelname)s %(message)s"
        )
    with ministack.run() as url, redis.run() as redis_server, postgres.run() as postgres_server:
        services = Services(url, redis_server, postgres_server, tell, options.keep)
        print_head()
        is_fine = True
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for name in names:
                is_fine &= run(name, services, seed, short=options.short)
        print()
        if not options.rows_only:
            is_fine &= are_controls_caught(services)
            is_fine &= are_whole_workers_cleared(services)
        return 0 if is_fine else 1


def run(name: str, services: Services, seed: int, *, short: bool) -> bool:
    """Run a row and print its line; return True if nothing is wrong."""
    began_at = time.monotonic()
    try:
        result = run_row(ROWS[name], services, seed, short=short)
    except TimeoutError as error:  # the other runs may still show something
        result = RowResult(load="", findings=Findings(), wrong=[str(error).partition("\n")[0]])
        print(error, file=sys.stderr)
    print_line(name, seed, result, time.monotonic() - began_at)
    for complaint in result.complaints():
        print(f"{name}, seed {seed}: {complaint}", file=sys.stderr)
    return not result.complaints()


def are_controls_caught(services: Services) -> bool:
    """Run the negative controls and say of each whether it was caught."""
    print("| broken on purpose | caught by |\n|---|---|")
    all_caught = True
    for control in (*CONTROLS, *INSIDE_CONTROLS):
        is_caught = control.is_caught(services)
        all_caught &= is_caught
        caught_by = COLUMNS.get(control.caught_by, control.caught_by) if is_caught else "NOTHING"
        print(f"| {control.sabotage} | {caught_by} |", flush=True)
    return all_caught


def are_whole_workers_cleared(services: Services) -> bool:
    """Run each control's scenario with a worker that is not broken; return True if nothing wrong is found of it."""
    is_clear = True
    for scenario in dict.fromkeys(control.scenario for control in CONTROLS):
        wrong = scenario(services).wrong()
        if wrong:
            print(f"{scenario.__name__}, nothing broken: {wrong}", file=sys.stderr)
        is_clear &= not wrong
    return is_clear


def print_head() -> None:
    """Print where this is and the head of the table."""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, MiniStack, Redis, PostgreSQL\n")
    print(f"| run | seed | load | {' | '.join(COLUMNS.values())} | measured | seconds |")
    print("|---" * (len(COLUMNS) + 5) + "|", flush=True)


def print_line(name: str, seed: int, result: RowResult, seconds: float) -> None:
    """Print a row of the table; what is wrong beside the counts is in capitals."""
    counts = result.findings.counts()
    measured = [f"{what}: {value}" for what, value in result.measured.items()]
    measured += [f"WRONG: {complaint}" for complaint in result.wrong]
    cells = [name, seed, result.load, *(counts[key] for key in COLUMNS), "; ".join(measured), round(seconds)]
    tell("")
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def tell(text: str) -> None:
    """Show how far it is, on one line."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
