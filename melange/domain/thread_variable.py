"""A variable for each thread, and within a thread for each asyncio task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class ThreadVariable(threading.local, Generic[ValueT]):
    """A variable that has ``make_default()`` at first in each thread.

    A child task starts with the value of its parent; later changes in one do not affect the other.

    It is one context variable per thread. The tasks of a thread would share a thread-local value. A single context
    variable would travel into other threads with the contexts that ``asyncio.to_thread``, asgiref and free-threaded
    Python copy.
    """

    def __init__(self, name: str, make_default: Callable[[], ValueT]) -> None:
        # Called by threading.local once in each thread.
        variable = ContextVar(name, default=make_default())  # noqa: B039  it is this thread's alone
        self.get: Callable[[], ValueT] = variable.get
        self.set: Callable[[ValueT], object] = variable.set
