"""Worker processes: started, looked at, signalled."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from chaos.deaths import VARIABLE
from chaos.journal import POLLED, PROCESS_NUMBER

TESTS = Path(__file__).parent.parent
END_SECONDS = 60.0

_numbers = itertools.count(1)


class ProcessSettings(Protocol):
    """The settings of a process; its journal is in the directory ``journals``."""

    @property
    def journals(self) -> str: ...

    def to_text(self) -> str:
        """Return it as a process's argument."""
        ...


class WorkerProcess:
    """One worker."""

    def __init__(self, program: str, settings: ProcessSettings, log: Path, fail_point: str) -> None:
        self.process_number = next(_numbers)
        environment = {**tests_environment(), PROCESS_NUMBER: str(self.process_number)}
        if fail_point:
            environment[VARIABLE] = fail_point
        with log.open("a") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", program, settings.to_text()],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._journal = Path(settings.journals, f"{self.process_number}.journal")

    def has_journal(self) -> bool:
        """Return True once it can be stopped."""
        return self._journal.exists()

    def has_polled(self) -> bool:
        """Return True once it has polled."""
        return self.count(POLLED) > 0

    def count(self, kind: str) -> int:
        """Return the number of records of a kind in its journal."""
        return self._journal.read_text().count(f'"{kind}"') if self.has_journal() else 0

    def is_alive(self) -> bool:
        """Return True while the process runs."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, timeout_seconds: float = END_SECONDS) -> int:
        """Wait for its end and return its exit code."""
        return self._process.wait(timeout_seconds)


def tests_environment() -> dict[str, str]:
    """Return the environment of a process that imports from the tests."""
    python_path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": python_path.rstrip(os.pathsep)}
