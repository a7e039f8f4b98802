"""What importing melange costs beside what it needs, each time in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measuring import Contender, Cost, Progress, Row, cpu_of, interleaved

_SCRIPT = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print(time.process_time() - cpu, time.perf_counter() - wall)
"""

_PAIRS = (
    ("melange", "marshmallow"),
    ("melange.outbox", "sqlalchemy.orm"),
    ("melange.aws_lambda", "aws_lambda_powertools.utilities.batch"),
)


def rows(repetitions: int, progress: Progress) -> list[Row]:
    """Compare melange with marshmallow, its outbox with SQLAlchemy, its handler with Powertools; CPU time."""
    costs = interleaved(
        "imports",
        {module: importing(module) for pair in _PAIRS for module in pair},
        repetitions,
        progress,
    )
    times = {module: cpu_of(of_module) for module, of_module in costs.items()}
    return [
        Row(
            f"`import {ours}`",
            times[ours],
            f"`import {theirs}`",
            times[theirs],
            unit="ms",
        )
        for ours, theirs in _PAIRS
    ]


def importing(module: str) -> Contender:
    """Return the contender that imports the module."""

    def run() -> Cost:
        # -I: nothing but what is installed.
        command = [sys.executable, "-I", "-c", _SCRIPT.format(module=module)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        cpu, wall = map(float, answer.stdout.split())
        return Cost(cpu, wall)

    return run
