"""Points at which a process of a run dies by itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chaos import processes
from chaos.deaths import EXIT_CODE

PROGRAM = """
from chaos.deaths import may_die_at
for passing in range(1, 4):
    print(passing, flush=True)
    may_die_at("before-mark")
    may_die_at("after-mark")
"""


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**processes.tests_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_the_variable_nothing_happens() -> None:
    finished = run()

    assert (finished.returncode, finished.stdout.split()) == (0, ["1", "2", "3"])


@pytest.mark.parametrize(
    ("wish", "passes"),
    [("after-mark", 1), ("after-mark:3", 3), ("before-mark:2", 2)],
)
def test_the_process_dies_at_the_point_that_the_environment_names(wish: str, passes: int) -> None:
    finished = run(MELANGE_FAIL_POINT=wish)

    assert finished.returncode == EXIT_CODE
    assert len(finished.stdout.split()) == passes


def test_a_point_that_is_never_passed_harms_nobody() -> None:
    finished = run(MELANGE_FAIL_POINT="before-breakfast")

    assert finished.returncode == 0
