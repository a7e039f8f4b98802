"""A variable of its own for each thread, and within a thread for each asyncio task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class ThreadVariable(threading.local, Generic[ValueT]):
    """A variable that each thread sees with ``make_default()`` in it at first, however the thread was started.

    A child task starts with what its parent had; what either sets from then on, the other does not see.

    It is one context variable per thread. A thread-local value would be shared by the tasks of a thread;
    a single context variable travels into other threads with the contexts that ``asyncio.to_thread``,
    asgiref and free-threaded Python copy there.
    """

    def __init__(self, name: str, make_default: Callable[[], ValueT]) -> None:
        # Called by threading.local once in each thread.
        variable = ContextVar(name, default=make_default())  # noqa: B039  it is this thread's alone
        self.get: Callable[[], ValueT] = variable.get
        self.set: Callable[[ValueT], object] = variable.set
