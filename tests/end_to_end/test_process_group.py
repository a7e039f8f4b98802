"""What a group of processes does about those that are lost. The processes here are stand-ins for workers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from melange.cli.processes import CRASH_LOOP
from waiting import eventually

GROUP = """
import logging, sys
from melange.cli import processes
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
processes.STEADY_SECONDS = float(sys.argv[1])
commands = [[program, "child.py", number] for number, program in enumerate(sys.argv[2:], start=1)]
commands = [[str(part) for part in command] for command in commands]
group = processes.ProcessGroup(commands, first_pause_seconds=0.05, longest_pause_seconds=0.2)
sys.exit(group.run())
"""

CHILD = """
import os, signal, sys
from pathlib import Path
number = sys.argv[1]
with Path(f"begun-{number}").open("a") as begun:
    begun.write(f"{os.getpid()}\\n")
fate = Path(f"fate-{number}").read_text()
if fate == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if fate != "works":
    sys.exit(int(fate))
Path(f"works-{number}").touch()
while os.read(0, 1024):
    pass
"""


class Group:
    """A group of two, in a directory where each test writes the fates of its processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "group.py").write_text(GROUP)
        (directory / "child.py").write_text(CHILD)
        self.process: subprocess.Popen[bytes] | None = None

    def fate(self, number: int, fate: str) -> None:
        """Say what becomes of the next processes of this number: works, killed, or an exit code."""
        unseen = self._directory / f"next-{number}"
        unseen.write_text(fate)
        unseen.replace(self._directory / f"fate-{number}")

    def start(self, *programs: str | Path, steady_seconds: float = 60) -> None:
        command = [sys.executable, "group.py", str(steady_seconds), *(programs or [sys.executable] * 2)]
        with (self._directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self._directory, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def log(self) -> str:
        return (self._directory / "log").read_text()

    def begun(self, number: int) -> list[int]:
        """Return the ids of the processes of this number that have begun, in that order."""
        path = self._directory / f"begun-{number}"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def works(self, number: int) -> bool:
        """Return True once a process of this number has begun whose fate is to work."""
        return (self._directory / f"works-{number}").exists()

    def seconds_at_work(self, number: int) -> float:
        return time.time() - (self._directory / f"works-{number}").stat().st_mtime

    def wait_for(self, condition: Callable[[], object]) -> None:
        def holds() -> object:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            return condition()

        eventually(holds, timeout_seconds=60, explain=lambda: self.log)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self) -> int:
        assert self.process is not None
        return self.process.wait(60)


@pytest.fixture
def group(tmp_path) -> Iterator[Group]:
    group = Group(tmp_path)
    group.fate(1, "works")
    group.fate(2, "works")
    yield group
    if group.process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group.process.pid, signal.SIGKILL)
        group.process.wait()


@pytest.mark.parametrize("fate", ["0", "1", "2", "3", "killed"])
def test_one_that_fails_is_tried_again_until_it_works_and_the_other_never_stops(group, fate) -> None:
    group.fate(2, fate)
    group.start()
    group.wait_for(lambda: len(group.begun(2)) >= 3)

    group.fate(2, "works")
    group.wait_for(lambda: group.works(2))
    group.stop()

    assert len(group.begun(1)) == 1


def test_a_replacement_that_fails_does_not_stop_the_others(group) -> None:
    group.start()
    group.wait_for(lambda: group.works(1) and group.works(2))
    group.fate(2, "2")
    os.kill(group.begun(2)[0], signal.SIGKILL)

    group.wait_for(lambda: len(group.begun(2)) >= 4)

    assert group.stop() == 1  # one of them could not begin
    assert len(group.begun(1)) == 1


def test_when_none_can_begin_it_ends_with_2(group) -> None:
    group.fate(1, "2")
    group.fate(2, "2")

    group.start()

    assert group.end() == 2
    assert "no process is left, the last ended with code 2: wrong usage or configuration" in group.log


def test_when_all_give_up_it_ends_with_1(group) -> None:
    group.fate(1, "3")
    group.fate(2, "3")

    group.start()

    assert group.end() == 1


def test_when_all_fail_for_a_reason_that_may_pass_it_waits_until_they_work(group) -> None:
    group.fate(1, "1")
    group.fate(2, "1")
    group.start()
    group.wait_for(lambda: len(group.begun(1)) > CRASH_LOOP and len(group.begun(2)) > CRASH_LOOP)

    group.fate(1, "works")
    group.fate(2, "works")
    group.wait_for(lambda: group.works(2))


def test_a_crash_loop_is_slowed_down_logged_and_told_by_the_exit_code(group) -> None:
    group.fate(2, "killed")

    group.start()
    group.wait_for(lambda: "loss 6 in a row" in group.log)

    losses = [line for line in group.log.splitlines() if "starting another" in line]
    assert [loss.partition("starting another ")[2] for loss in losses[:6]] == [
        "at once",
        "in 0.05 s",
        "in 0.1 s",
        "in 0.2 s",
        "in 0.2 s",
        "in 0.2 s",
    ]
    assert losses[4] == (
        "CRITICAL process 2 ended by SIGKILL, loss 5 in a row (crash loop): starting another in 0.2 s"
    )
    assert len(group.begun(1)) == 1
    assert group.stop() == 1


def test_a_process_that_lived_long_begins_a_new_row_of_losses(group) -> None:
    group.fate(2, "killed")
    group.start(steady_seconds=3)
    group.wait_for(lambda: f"loss {CRASH_LOOP} in a row" in group.log)
    group.fate(2, "works")
    group.wait_for(lambda: group.works(2))
    group.wait_for(lambda: group.seconds_at_work(2) > 3)
    seen = group.log.count("starting another")

    os.kill(group.begun(2)[-1], signal.SIGKILL)
    group.wait_for(lambda: group.log.count("starting another") > seen)

    assert group.log.splitlines()[-1] == "ERROR process 2 ended by SIGKILL: starting another at once"
    assert group.stop() == 0


def test_a_process_that_cannot_be_started_is_tried_again(group, tmp_path) -> None:
    python = tmp_path / "python"
    group.start(sys.executable, python)
    group.wait_for(lambda: group.log.count("process 2 could not be started") >= 3)

    python.symlink_to(sys.executable)
    group.wait_for(lambda: group.works(2))
    group.stop()

    assert len(group.begun(1)) == 1
