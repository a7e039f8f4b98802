"""The timers of a worker: retries that wait in flight."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable

from melange.clock import Clock
from melange.consuming.leases import Lease

logger = logging.getLogger(__name__)

_LONGEST_WAIT_SECONDS = 3600.0
"""Longer waits are split: the system's own timers refuse waits of centuries."""

_LONGEST_CALL_SECONDS = 1.0
"""How long ``close`` waits for the call that is being made."""


class Timers:
    """Calls functions later, on a daemon thread that starts with the first call. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._calls: list[tuple[float, int, Lease, Callable[[Lease], None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._is_calling = False
        self._closed = False

    def after(self, seconds: float, call: Callable[[Lease], None], lease: Lease) -> bool:
        """Call ``call(lease)`` after ``seconds``; return False when it will not be called: after ``close``, or
        without a thread."""
        with self._changed:
            if self._closed:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="melange-timers", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system cannot start a thread
                    return False
                self._thread = thread
            due = self._clock.monotonic() + seconds
            heapq.heappush(self._calls, (due, next(self._order), lease, call))
            self._changed.notify()
            return True

    def close(self) -> list[tuple[Lease, float]]:
        """Make no further calls; return the waiting leases, each with the time of its call.

        Waits for the call that is being made: its lease is neither among these nor at its destination yet.
        """
        with self._changed:
            self._closed = True
            waiting = [(lease, due) for due, _, lease, _ in self._calls]
            self._calls.clear()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_calling, _LONGEST_CALL_SECONDS)
            return waiting

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = self._clock.monotonic()
                if not self._calls:
                    self._changed.wait()
                    continue
                due, _, lease, call = self._calls[0]
                if due > now:
                    try:
                        self._clock.wait(self._changed, min(due - now, _LONGEST_WAIT_SECONDS))
                    except TimeoutError:  # a clock for tests that was not advanced
                        logger.debug("the clock of the test stands still: the next retry waits")
                    continue
                heapq.heappop(self._calls)
                self._is_calling = True
            try:
                call(lease)
            except Exception:
                logger.exception("a retry could not begin; the message will be delivered again")
            finally:
                with self._changed:
                    self._is_calling = False
                    self._changed.notify_all()
