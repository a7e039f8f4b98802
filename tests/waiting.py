"""Waiting in tests: ask again and again until something holds, and fail at a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")

TIMEOUT_SECONDS = 60.0
"""Long enough for a loaded machine; a test that passes does not wait for it."""

_LONGEST_PAUSE_SECONDS = 0.05


def eventually(
    condition: Callable[[], ResultT],
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
    explain: Callable[[], str] = lambda: "",
) -> ResultT:
    """Return what ``condition`` returns as soon as that is true.

    Fails the test after ``timeout_seconds``, with what ``explain`` says then: a log, for example.
    """
    deadline = time.monotonic() + timeout_seconds
    pause_seconds = 0.001
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not true after {timeout_seconds:g} s {explain()}".rstrip()
        threading.Event().wait(pause_seconds)  # a test may have replaced time.sleep
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
    return result
