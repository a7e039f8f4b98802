"""What a worker process and its parent have agreed on."""

from __future__ import annotations

import os
import threading

from melange.consuming.worker import Worker

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
