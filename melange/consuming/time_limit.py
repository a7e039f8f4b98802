"""Time limits of listeners: which one a run has, and how plain ones are run within it.

For coroutines see ``event_loop.within``.
"""

from __future__ import annotations

import contextvars
import logging
import math
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from melange.errors import ConfigurationError, TimeLimitExceeded, is_number

if TYPE_CHECKING:
    from melange.consuming.leases import Lease
    from melange.consuming.listener import ListenerCall, Subscription

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


def check_time_limit(timeout_seconds: float | None) -> None:
    """Raise ``ConfigurationError`` unless it is a time limit or None."""
    if timeout_seconds is not None and not (is_number(timeout_seconds) and 0 < timeout_seconds < math.inf):
        raise ConfigurationError(f"timeout_seconds must be above 0, or None, not {timeout_seconds!r}")


class TimeLimits:
    """Runs the listeners of a consumer within their time limits, and counts the threads that still hang. Thread-safe.

    ``default_seconds`` is the limit of listeners that have none of their own; None for no limit.
    """

    def __init__(self, default_seconds: float | None) -> None:
        check_time_limit(default_seconds)
        self.default_seconds = default_seconds
        self._given_up: list[threading.Thread] = []

    def of_listener(self, listener: Subscription) -> float | None:
        """Return the time limit of the listener; None without a limit."""
        return self.default_seconds if listener.timeout_seconds is None else listener.timeout_seconds

    def of_run(self, listener: Subscription, lease: Lease) -> float | None:
        """Return the time limit of one run: that of the listener, or what is left to the process if that is less."""
        limit = self.of_listener(listener)
        if lease.cutoff == math.inf:
            return limit
        left = lease.seconds_to_cutoff
        return left if limit is None else min(left, limit)

    def was_cut_short(self, call: ListenerCall, error: TimeLimitExceeded) -> bool:
        """Return True if the end of the process ended the run, and left it less than its share of the time."""
        limit = self.of_listener(call.subscription)
        return error.limit_seconds < min(call.lease.fair_seconds, math.inf if limit is None else limit)

    def run(self, call: ListenerCall) -> object:
        """Call the listener and return its result, in time; an asynchronous one has its limit when it is awaited.

        Raises:
            TimeLimitExceeded: it took longer.
        """
        listener = call.subscription
        limit = self.of_run(listener, call.lease)
        if limit is None or listener.is_async:
            return listener.run(call)
        return self._run_on_companion(lambda: listener.run(call), limit, f"listener {listener.name}")

    def limited(self, call: ListenerCall, result: Awaitable[object]) -> Awaitable[object]:
        """Return the awaitable result of a listener, with its time limit."""
        limit = self.of_run(call.subscription, call.lease)
        if limit is None:
            return result
        # It brings asyncio, half of what importing melange costs, and plain listeners do without.
        from melange.consuming.event_loop import within  # noqa: PLC0415

        return within(limit, result, f"listener {call.listener_name}")

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

    def _run_on_companion(self, call: Callable[[], Any], timeout_seconds: float, what: str) -> Any:
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
