"""Handlers for SIGTERM and SIGINT, in process 1 of a container too; ``Worker.run`` and the commands say what they do."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

SAME_REQUEST_SECONDS = 0.5
"""Signals within this time are one request. timeout(1), for example, signals its child twice, by id and by group."""

SLOWEST_HANDLER_SECONDS = 0.5
"""The longest time between a signal and its handler, in ``wait_until_set``."""

_last_request = -math.inf
"""When ``calling_on_signal`` last called ``stop``, on the monotonic clock."""


@contextmanager
def calling_on_signal(stop: Callable[[], None], again: Callable[[], None] | None = None) -> Iterator[None]:
    """Call ``stop`` on the first SIGTERM or SIGINT, and ``again`` on later ones. Main thread only.

    Both run inside a signal handler: between any two steps of the main thread, which may hold a lock.
    Without ``again`` the second signal does what it did before, or ends the process if it did nothing.
    Afterwards the handlers that were there are back.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    asked_at: float | None = None

    def restore() -> None:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python, which Python can't set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal asked_at
        global _last_request  # noqa: PLW0603 - signal handlers belong to the whole process as well
        if asked_at is None:
            asked_at = _last_request = time.monotonic()
            stop()
        elif time.monotonic() - asked_at <= SAME_REQUEST_SECONDS:
            return
        elif again is not None:
            again()
        else:
            restore()
            if callable(before[signal.Signals(number)]):
                signal.raise_signal(number)
            else:
                _end_process(number)

    for number in SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()


def wait_until_set(event: threading.Event) -> None:
    """Wait until the event is set, while handlers of signals may run; blocks without a limit.

    Python runs them in the main thread alone, when it wakes. A signal that the system gives to another thread, or that
    comes just before the wait begins, does not wake it. So the wait has short slices.
    """
    while not event.wait(SLOWEST_HANDLER_SECONDS):
        pass


@contextmanager
def pausing_on_signals(pause: Callable[[], None], resume: Callable[[], None]) -> Iterator[None]:
    """Call ``pause`` on SIGUSR1 and ``resume`` on SIGUSR2 inside the block. Main thread only; nothing on Windows.

    Each runs on a thread of its own, because a signal handler may interrupt a holder of the locks that it needs.
    """
    calls = {
        getattr(signal, name): call
        for name, call in (("SIGUSR1", pause), ("SIGUSR2", resume))
        if hasattr(signal, name)
    }
    before = {number: signal.getsignal(number) for number in calls}

    def on_signal(number: int, _frame: FrameType | None) -> None:
        threading.Thread(target=calls[number], name="melange-pausing", daemon=True).start()

    for number in calls:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def end_process_on_signals() -> None:
    """Let SIGTERM and SIGINT do what they do by default, in process 1 too. Main thread only.

    The kernel drops a signal for process 1 that has no handler, so that a container could not be stopped while
    its program is imported. A repetition of a signal that ``calling_on_signal`` has handled is ignored.
    """
    for number in SIGNALS:
        # Any other handler was set on purpose, also the one that ignores the signal.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _on_unhandled)


def _on_unhandled(number: int, frame: FrameType | None) -> None:
    if time.monotonic() - _last_request <= SAME_REQUEST_SECONDS:
        return
    if number == signal.SIGINT:
        signal.default_int_handler(number, frame)
    _end_process(number)


def _end_process(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)  # only process 1 comes here: what a shell shows for the others
