"""What every run has: processes, a seed for the faults, and a directory for the journals."""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from chaos.checker import KILL, PAUSE, Fault
from chaos.deaths import EXIT_CODE
from chaos.journal import Record, read_journals
from chaos.processes import ProcessSettings, WorkerProcess

if TYPE_CHECKING:
    from services.postgres import PostgresServer
    from services.redis import RedisServer

LOOK_EVERY_SECONDS = 0.05
START_SECONDS = 60.0
PATIENCE_SECONDS = 120.0
"""Longer than a process takes to start on a busy machine: with less, what the last one had yet to do counted as lost."""
LOG_TAIL_CHARACTERS = 4_000


@dataclass(frozen=True)
class Services:
    """The servers that all runs share. ``tell`` shows progress; journals and logs stay in ``kept``, if that is given."""

    sns_sqs_url: str
    redis: RedisServer
    postgres: PostgresServer
    tell: Callable[[str], None] = lambda text: None
    kept: Path | None = None


class Scene:
    """One run's processes. Leaving it kills what is left of them."""

    def __init__(self, services: Services, name: str, seed: int) -> None:
        self.random = random.Random(f"{name} {seed}")
        self.faults: list[Fault] = []
        self._services = services
        self._name = name
        self._ids = f"{name}-{uuid4().hex[:8]}".replace(" ", "-")
        self._processes: list[WorkerProcess] = []
        self._opened = ExitStack()
        self._directory = self._make_directory(f"{self._ids}-seed-{seed}")

    def _make_directory(self, name: str) -> Path:
        if self._services.kept is None:
            directory = tempfile.TemporaryDirectory(prefix="melange-chaos-")
            return Path(self._opened.enter_context(directory))
        kept = self._services.kept / name
        kept.mkdir(parents=True)
        return kept.absolute()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            if process.is_alive():
                process.send(signal.SIGKILL)
                process.wait()
        self._opened.close()

    def tell(self, text: str) -> None:
        """Show the progress of the run."""
        self._services.tell(f"{self._name}: {text}")

    # --- processes and faults ----------------------------------------------------------------------

    @property
    def workers(self) -> list[WorkerProcess]:
        """The processes that are alive."""
        return [process for process in self._processes if process.is_alive()]

    def start(self, program: str, settings: ProcessSettings, fail_point: str = "") -> WorkerProcess:
        """Start one more process, of ``python -m PROGRAM``."""
        process = WorkerProcess(program, settings, self._directory / "log", fail_point)
        self._processes.append(process)
        return process

    def let_pass(self, least_seconds: float, most_seconds: float) -> None:
        """Let some time pass until the next fault, by chance."""
        time.sleep(self.random.uniform(least_seconds, most_seconds))

    def kill(self, worker: WorkerProcess) -> None:
        """Kill a worker without warning."""
        began_at = time.monotonic()
        worker.send(signal.SIGKILL)
        worker.wait()
        self.faults.append(Fault(KILL, began_at, inf, worker.process_number))

    @contextmanager
    def paused(self, worker: WorkerProcess) -> Iterator[None]:
        """Pause a worker during the block."""
        began_at = time.monotonic()
        worker.send(signal.SIGSTOP)
        try:
            yield
        finally:
            worker.send(signal.SIGCONT)
            self.faults.append(Fault(PAUSE, began_at, time.monotonic(), worker.process_number))

    def await_death(self, worker: WorkerProcess) -> bool:
        """Wait for a worker to die at its fail point; return True if it did."""
        exit_code = worker.wait()
        last = max(
            (record.at for record in self.records() if record.process_number == worker.process_number),
            default=0.0,
        )
        self.faults.append(Fault(KILL, last, inf, worker.process_number))
        return exit_code == EXIT_CODE

    def stop_workers(self) -> list[int]:
        """Stop all workers by SIGTERM; return their exit codes."""
        stopping = self.workers
        # One that has only just been started would end by the signal instead of by itself.
        self.wait_for(
            lambda: all(worker.has_journal() or not worker.is_alive() for worker in stopping),
            "workers to start",
        )
        for worker in stopping:
            worker.send(signal.SIGTERM)
        return [worker.wait() for worker in stopping]

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds.

        Raises:
            TimeoutError: it did not, in a minute.
        """
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._name}: waited too long for {what}\n{self.log_tail()}")
            time.sleep(LOOK_EVERY_SECONDS)

    def wait_until_none(self, left: Callable[[], int], of_what: str) -> None:
        """Wait until nothing is left, or nothing has moved for a long while."""
        seen, still_since = (-1, -1), time.monotonic()
        while count := left():
            self.tell(f"{count:,} {of_what} left")
            now = (count, sum(path.stat().st_size for path in self._directory.glob("*.journal")))
            if now != seen:
                seen, still_since = now, time.monotonic()
            elif time.monotonic() - still_since > PATIENCE_SECONDS:
                return
            time.sleep(4 * LOOK_EVERY_SECONDS)

    # --- evidence ----------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """Return what the workers have recorded so far."""
        return read_journals(self._directory)

    def log_tail(self) -> str:
        """Return the end of the workers' log."""
        log = self._directory / "log"
        return log.read_text()[-LOG_TAIL_CHARACTERS:] if log.exists() else ""
