"""Points at which a process can be made to die."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from melange import failpoints

PROGRAM = """
from melange.failpoints import fail_point
for passing in range(1, 4):
    print(passing, flush=True)
    fail_point("before-mark")
    fail_point("after-mark")
"""


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
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

    assert finished.returncode == failpoints.EXIT_CODE
    assert len(finished.stdout.split()) == passes


def test_a_point_that_is_never_passed_harms_nobody() -> None:
    finished = run(MELANGE_FAIL_POINT="before-breakfast")

    assert finished.returncode == 0
