"""Stopping on SIGTERM and SIGINT."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

SAME_REQUEST_SECONDS = 0.5
"""Signals so close together are one request: timeout(1), for one, signals its child twice, by id and by group."""


@contextmanager
def calling_on_signal(stop: Callable[[], None], again: Callable[[], None] | None = None) -> Iterator[None]:
    """Call ``stop`` on the first SIGTERM or SIGINT, and ``again`` on later ones. Main thread only.

    Without ``again`` the second does what it did before. Afterwards the handlers that were there are back.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    asked_at: float | None = None

    def restore() -> None:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python, which Python can't set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal asked_at
        if asked_at is None:
            asked_at = time.monotonic()
            stop()
        elif time.monotonic() - asked_at <= SAME_REQUEST_SECONDS:
            return
        elif again is not None:
            again()
        else:
            restore()
            signal.raise_signal(number)

    for number in SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()
