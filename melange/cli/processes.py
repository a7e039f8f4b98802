"""Several worker processes under one parent, which replaces those that are lost.

The child stops when its standard input ends (``Lifeline``). Its exit code shows if its worker gave up or cannot begin
(``VERDICTS``).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

from melange.cli.failures import WRONG_USAGE
from melange.cli.probes import HealthFile
from melange.consuming.worker import Worker
from melange.signals import calling_on_signal, pausing_on_signals

logger = logging.getLogger(__name__)

LEFT_WORK_BEHIND = 3
"""A child's code for a worker's 1: Python itself ends with 1 on any error."""

VERDICTS = (WRONG_USAGE, LEFT_WORK_BEHIND)
"""The codes of a child that cannot begin or gave up. Its replacement would probably end in the same way."""

CRASH_LOOP = 5
"""The number of losses in a row that is a crash loop."""

STEADY_SECONDS = 60.0
"""The lifetime after which a process ends the row of losses."""

LOOK_EVERY_SECONDS = 0.2

PAUSE, RESUME = b"p", b"r"
"""Orders on the lifeline."""


class Lifeline:
    """Stops this process when its parent asks for it or ends: both close our standard input. Pauses it when it says so.

    A signal does not fit. Terminals and service managers signal parent and children, and for a worker the
    second signal means "at once".
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._is_paused = False
        self._ordering = threading.Lock()
        threading.Thread(target=self._watch, name="melange-lifeline", daemon=True).start()

    def stops(self, worker: Worker) -> None:
        """Stop the worker gracefully when the pipe ends; without a worker the process exits."""
        with self._ordering:
            self._worker = worker
            if self._is_paused:
                worker.pause()

    def _watch(self) -> None:
        # Not through sys.stdin: its lock, held by a daemon thread, would break the interpreter's exit.
        while orders := os.read(0, 1024):
            with self._ordering:
                self._is_paused = orders.endswith(PAUSE)
                if self._worker is not None:
                    (self._worker.pause if self._is_paused else self._worker.resume)()
        if self._worker is None:
            os._exit(0)
        self._worker.stop()


class ProcessGroup:
    """Runs processes with a ``Lifeline`` until SIGTERM or SIGINT; for the main thread.

    A lost process is replaced: at once, then after pauses that double. The others continue. The group ends by
    itself only if all have ended with a verdict.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        health_file: HealthFile | None = None,
        *,
        first_pause_seconds: float = 1.0,
        longest_pause_seconds: float = 60.0,
    ) -> None:
        """Prepare a process for each command, numbered from 1.

        ``health_file`` exists while the file of every process (the same name with ``.1``, ``.2`` ...) is fresh.
        The pauses are those before a process is replaced again; after a verdict it is the longest one.
        """
        self._children = [
            _Child(number, command, None if health_file is None else health_file.of_process(number))
            for number, command in enumerate(commands, start=1)
        ]
        self._health_file = health_file
        self._first_pause_seconds = first_pause_seconds
        self._longest_pause_seconds = longest_pause_seconds
        self._signals: SimpleQueue[None] = SimpleQueue()  # which a signal handler may fill
        self._stopping = False
        self._is_paused = False
        self._exit_code = 0

    def run(self) -> int:
        """Run until all have ended; return the exit code.

        0: stopped with nothing left behind. 1: otherwise, and if a process was in a crash loop. 2: none of
        them can begin. The first signal stops them gracefully, the second at once. SIGUSR1 pauses them all, and those
        that are started later; SIGUSR2 resumes them.
        """
        heard = partial(self._signals.put, None)
        pausing = pausing_on_signals(partial(self._tell, PAUSE), partial(self._tell, RESUME))
        with calling_on_signal(heard, again=heard), pausing:
            try:
                while not (self._stopping and not any(child.is_running for child in self._children)):
                    self._look_at_children()
                    self._show_health()
                    self._wait_for_signal()
            finally:
                if self._health_file is not None:
                    self._health_file.show(ready=False)
        return self._exit_code

    def _tell(self, order: bytes) -> None:
        self._is_paused = order == PAUSE
        for child in self._children:
            child.tell(order)

    def _look_at_children(self) -> None:
        for child in self._children:
            if (code := child.ended_with()) is not None:
                self._on_end(child, code)
            if child.is_due and not self._stopping:
                self._start(child)

    def _start(self, child: _Child) -> None:
        try:
            child.start()
            if self._is_paused:
                child.tell(PAUSE)
        except OSError as error:
            # No memory, no more processes or open files: temporary, or visible in the log.
            child.count_loss(None)
            self._replace(child, f"could not be started ({error})")

    def _on_end(self, child: _Child, code: int) -> None:
        if self._stopping:
            self._exit_code = max(self._exit_code, min(abs(code), 1))
            return
        child.count_loss(code)
        if not all(other.has_verdict for other in self._children):
            self._replace(child, f"ended {_how(code)}")
            return
        can_begin = any(other.last_code != WRONG_USAGE for other in self._children)
        logger.critical("no process is left, the last ended %s", _how(code))
        self._stop(exit_code=1 if can_begin else WRONG_USAGE)

    def _replace(self, child: _Child, what_happened: str) -> None:
        pause_seconds = self._pause_after(child)
        child.start_at = time.monotonic() + pause_seconds
        logger.log(
            logging.CRITICAL if child.is_in_crash_loop else logging.ERROR,
            "process %d %s%s: starting another %s",
            child.number,
            what_happened,
            f", loss {child.losses} in a row (crash loop)" if child.is_in_crash_loop else "",
            f"in {pause_seconds:g} s" if pause_seconds else "at once",
        )

    def _pause_after(self, child: _Child) -> float:
        if child.has_verdict:
            return self._longest_pause_seconds
        if child.losses == 1:
            return 0.0
        return min(self._longest_pause_seconds, self._first_pause_seconds * 2.0 ** min(child.losses - 2, 32))

    def _wait_for_signal(self) -> None:
        try:
            self._signals.get(timeout=LOOK_EVERY_SECONDS)
        except Empty:
            return
        if not self._stopping:
            in_trouble = any(child.is_in_crash_loop or child.has_verdict for child in self._children)
            self._stop(exit_code=1 if in_trouble else 0)
            return
        logger.warning("stopping at once: what is in flight is left to redelivery")
        for child in self._children:
            child.kill()

    def _stop(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._stopping = True
        logger.info("stopping all processes")
        for child in self._children:
            child.stop()

    def _show_health(self) -> None:
        if self._health_file is not None:
            files = [child.health_file for child in self._children]
            self._health_file.show(all(file is not None and file.is_fresh() for file in files))


class _Child:
    """One of the processes of the group: the one that runs, and how those before it ended."""

    def __init__(self, number: int, command: Sequence[str], health_file: HealthFile | None) -> None:
        self.number = number
        self.health_file = health_file
        self.losses = 0
        """The number of processes that were lost in a row."""
        self.last_code: int | None = None
        """How the last one ended, below 0 by a signal; None: it could not be started, or none has ended."""
        self.start_at = time.monotonic()
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    @property
    def is_running(self) -> bool:
        """True if there is a process, as of the last look."""
        return self._process is not None

    @property
    def is_due(self) -> bool:
        """True if it is time for the next process."""
        return not self.is_running and time.monotonic() >= self.start_at

    @property
    def has_verdict(self) -> bool:
        """True if the last process ended with a verdict, and no other runs."""
        return not self.is_running and self.last_code in VERDICTS

    @property
    def is_in_crash_loop(self) -> bool:
        """True if too many were lost in a row."""
        return self.losses >= CRASH_LOOP

    def start(self) -> None:
        """Start a process.

        Raises:
            OSError: the system cannot start a process.
        """
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)  # noqa: S603 - ourselves

    def ended_with(self) -> int | None:
        """Return the exit code if the process has just ended."""
        if self._process is None:
            return None
        code = self._process.poll()
        if code is not None:
            self.stop()
            self._process = None
            if self.health_file is not None:
                self.health_file.show(ready=False)  # a process that was killed has left it
        if time.monotonic() - self._started_at >= STEADY_SECONDS:
            self.losses = 0
        return code

    def count_loss(self, code: int | None) -> None:
        """Remember that a process was lost; None: it could not even be started."""
        self.last_code = code
        self.losses += 1

    def tell(self, order: bytes) -> None:
        """Write an order to the lifeline of the process, if there is one."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError, ValueError):  # it has ended, or is stopping
                self._process.stdin.write(order)
                self._process.stdin.flush()

    def stop(self) -> None:
        """Ask the process to stop gracefully, by the end of its lifeline."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()


def _how(code: int) -> str:
    if code >= 0:
        said = {WRONG_USAGE: ": wrong usage or configuration", LEFT_WORK_BEHIND: ": it gave up"}
        return f"with code {code}{said.get(code, '')}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
