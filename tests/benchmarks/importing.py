"""What ``import melange`` costs beside ``import marshmallow``, each time in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measuring import Contender, Cost, Progress, cpu_of, interleaved, ratio
from benchmarks.report import Row

_SCRIPT = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print(time.process_time() - cpu, time.perf_counter() - wall)
"""


def rows(repetitions: int, progress: Progress) -> list[Row]:
    """Compare both imports; CPU time."""
    work = "`import melange`"
    costs = interleaved(
        work,
        {f"import {module}": importing(module) for module in ("marshmallow", "melange")},
        repetitions,
        progress,
    )
    marshmallow, ours = map(cpu_of, costs.values())
    return [Row(work, ours, "`import marshmallow`", marshmallow, ratio(ours, marshmallow), "", unit="ms")]


def importing(module: str) -> Contender:
    """Return the contender that imports the module."""

    def run() -> Cost:
        # -I: nothing but what is installed.
        command = [sys.executable, "-I", "-c", _SCRIPT.format(module=module)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        cpu, wall = map(float, answer.stdout.split())
        return Cost(cpu, wall)

    return run
