"""Runs of plain listeners with a time limit; for asynchronous ones see ``event_loop.within``."""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from melange.errors import TimeLimitExceeded

logger = logging.getLogger(__name__)


class _Companion:
    """A daemon thread that runs one call after another for the thread that owns it."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="melange-limited", daemon=True)
        self.thread.start()

    def begin(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def end(self) -> None:
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


class _Ownership:
    """Ends a companion when its owner ends: only the owner's thread-local state refers to this."""

    def __init__(self, companion: _Companion) -> None:
        self.companion = companion

    def __del__(self) -> None:
        self.companion.end()


class _Local(threading.local):
    ownership: _Ownership | None = None


_local = _Local()


class LimitedRuns:
    """Runs calls with a time limit, and counts the threads of those that were given up and still hang. Thread-safe."""

    def __init__(self) -> None:
        self._given_up: list[threading.Thread] = []

    @property
    def hanging(self) -> int:
        """The number of threads that were given up and have not ended since."""
        if self._given_up:
            self._given_up = [thread for thread in self._given_up if thread.is_alive()]
        return len(self._given_up)

    def give_up(self, thread: threading.Thread, what: str) -> None:
        """Leave the thread of a run alone that cannot be stopped, and log where it is."""
        self._given_up.append(thread)
        logger.error("%s is given up; its thread is at\n%s", what, _stack_of(thread))

    def run(self, call: Callable[[], Any], timeout_seconds: float, what: str) -> Any:
        """Return the result of ``call``, or raise its exception.

        It runs on a thread that the calling thread keeps for this, so that thread-local state (for example a database
        connection) lasts from one run to the next. A thread cannot be stopped from outside: after the limit the run is
        given up, its thread is left alone, and the log shows where it hangs.

        Raises:
            TimeLimitExceeded: it took longer.
        """
        try:
            companion = _own_companion()
        except RuntimeError as error:  # the system cannot start a thread; that must not use up attempts
            logger.warning("%s runs without its time limit: %s", what, error)
            return call()
        result: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                result.put((True, context.run(call)))
            except BaseException as error:  # passed on to the thread that waits
                result.put((False, error))

        companion.begin(run)
        try:
            succeeded, value = result.get(timeout=timeout_seconds)
        except Empty:
            _local.ownership = None  # it ends, if its run ever returns
            self.give_up(companion.thread, f"{what} runs for more than {timeout_seconds:g} s and")
            raise TimeLimitExceeded(what, timeout_seconds) from None
        if succeeded:
            return value
        raise value


def _own_companion() -> _Companion:
    """Return the calling thread's companion.

    Raises:
        RuntimeError: the system cannot start a thread.
    """
    companion = None if _local.ownership is None else _local.ownership.companion
    if companion is None or not companion.thread.is_alive():
        companion = _Companion()
        _local.ownership = _Ownership(companion)
    return companion


def _stack_of(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)) if frame else "an unknown place"
