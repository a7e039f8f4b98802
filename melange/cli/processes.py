"""Several worker processes under one parent, which replaces those that are lost."""

# MERGED DOCS: What a worker process and its parent have agreed on.

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple

from melange.cli.health_file import TOUCH_EVERY_SECONDS, HealthFile
from melange.consuming.worker import Worker
from melange.signals import calling_on_signal

WRONG_USAGE = 2
LEFT_WORK_BEHIND = 3
"""A child's code where a worker's is 1: Python itself ends with 1 on whatever goes wrong."""


class Lifeline:
    """Stops this process when its parent says so, or is gone: either ends our standard input.

    Asking by signal would not do. Terminals and service managers signal parent and children, and for a
    worker the second signal means "at once".
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None
        threading.Thread(target=self._watch, name="melange-lifeline", daemon=True).start()

    def stops(self, worker: Worker) -> None:
        """Let its end stop the worker in good order; without one there is nothing to do but to exit."""
        self._worker = worker

    def _watch(self) -> None:
        # Not through sys.stdin: its lock, held by a daemon thread, would break the interpreter's exit.
        while os.read(0, 1024):
            pass
        if self._worker is None:
            os._exit(0)
        self._worker.stop()


logger = logging.getLogger(__name__)

CRASHES = 5
CRASH_LOOP_SECONDS = 30.0
"""A process that is lost ``CRASHES`` times within this time is not replaced any more."""


class _Place:
    """A place in the group, for one process after the other."""

    def __init__(self, number: int, command: Sequence[str], health_file: HealthFile | None) -> None:
        self.number = number
        self.health_file = health_file
        self.process: subprocess.Popen[bytes] | None = None
        self._command = command
        self._losses: deque[float] = deque(maxlen=CRASHES)

    def start(self, on_end: Callable[[int], None]) -> None:
        """Start a process; ``on_end`` is called with its exit code, on another thread."""
        self.process = process = subprocess.Popen(self._command, stdin=subprocess.PIPE)  # noqa: S603 - ourselves
        threading.Thread(target=lambda: on_end(process.wait()), daemon=True).start()

    def stop(self) -> None:
        """Ask the process to stop in good order, by the end of its lifeline."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None:
            self.process.kill()

    def clear(self) -> None:
        """Forget the process, which has ended."""
        self.stop()
        self.process = None
        if self.health_file is not None:
            self.health_file.show(ready=False)  # a process that was killed has left it

    def is_in_a_crash_loop(self) -> bool:
        """Count one loss more; return whether it is one too many."""
        self._losses.append(time.monotonic())
        return len(self._losses) == CRASHES and self._losses[-1] - self._losses[0] <= CRASH_LOOP_SECONDS


class _Ended(NamedTuple):
    """The process of a place has ended, with this code; below 0 it was the signal of that number."""

    place: _Place
    code: int


class ProcessGroup:
    """Runs processes with a ``Lifeline`` until SIGTERM or SIGINT; for the main thread.

    One that is lost, whatever ended it, is replaced. One that ends because its worker gave up, or cannot
    begin, ends the others too: they would fare no better.
    """

    def __init__(self, commands: Sequence[Sequence[str]], health_file: HealthFile | None = None) -> None:
        """Get ready to run a process for each command, numbered from 1.

        ``health_file`` is there while that of every process (the same name with ``.1``, ``.2`` ...) is fresh.
        """
        self._places = [
            _Place(number, command, None if health_file is None else health_file.of_process(number))
            for number, command in enumerate(commands, start=1)
        ]
        self._health_file = health_file
        # None stands for a signal. A SimpleQueue may be filled from a signal handler.
        self._events: SimpleQueue[_Ended | None] = SimpleQueue()
        self._stopping = False
        self._exit_code = 0

    def run(self) -> int:
        """Run until all have ended; return the worst of their exit codes, of 0, 1 and 2.

        The first signal stops them in good order, the second at once.
        """
        hear = partial(self._events.put, None)
        with calling_on_signal(hear, again=hear):
            try:
                for place in self._places:
                    self._start(place)
                while any(place.process for place in self._places):
                    self._handle_next_event()
            finally:
                if self._health_file is not None:
                    self._health_file.show(ready=False)
        return self._exit_code

    def _start(self, place: _Place) -> None:
        place.start(on_end=lambda code: self._events.put(_Ended(place, code)))

    def _handle_next_event(self) -> None:
        try:
            event = self._events.get(timeout=None if self._health_file is None else TOUCH_EVERY_SECONDS)
        except Empty:
            self._show_health()
            return
        if event is None:
            self._on_signal()
        else:
            event.place.clear()
            self._on_end(event.place, event.code)

    def _on_signal(self) -> None:
        if self._stopping:
            logger.warning("stopping at once: what is in hand is left to redelivery")
            for place in self._places:
                place.kill()
        else:
            self._stop()

    def _on_end(self, place: _Place, code: int) -> None:
        if code == WRONG_USAGE:
            self._stop(exit_code=WRONG_USAGE)
        elif code == LEFT_WORK_BEHIND:
            self._stop(exit_code=1)
        elif self._stopping:
            self._stop(exit_code=min(abs(code), 1))
        elif place.is_in_a_crash_loop():
            logger.critical(
                "process %d ended %d times in %g s, now %s: giving up",
                place.number,
                CRASHES,
                CRASH_LOOP_SECONDS,
                _how(code),
            )
            self._stop(exit_code=1)
        else:
            logger.error("process %d ended %s: starting another", place.number, _how(code))
            self._start(place)

    def _stop(self, exit_code: int = 0) -> None:
        self._exit_code = max(self._exit_code, exit_code)
        if not self._stopping:
            self._stopping = True
            logger.info("stopping all processes")
            for place in self._places:
                place.stop()

    def _show_health(self) -> None:
        if self._health_file is not None:
            files = [place.health_file for place in self._places]
            self._health_file.show(all(file is not None and file.is_fresh() for file in files))


def _how(code: int) -> str:
    if code >= 0:
        return f"with code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
