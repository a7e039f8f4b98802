"""The current thread, and within it the task of asyncio or Trio."""

from __future__ import annotations

import sys
import threading
import weakref
from asyncio import _get_running_loop, current_task
from typing import Any


class _ThisThread(threading.local):
    """Has an object for each thread; the ids of threads are used again."""

    def __init__(self) -> None:
        self.token = object()


this_thread = _ThisThread()


def running_task() -> object | None:
    """Return the running task of this thread, of asyncio or Trio, or None."""
    loop = _get_running_loop()
    task = None if loop is None else current_task(loop)
    if task is not None:
        return task
    # Code in a task of Trio has imported it; other programs need not have it.
    trio: Any = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        running: object = trio.lowlevel.current_task()
    except (AttributeError, RuntimeError):  # it is being imported, or does not run here
        return None
    return running


class Whereabouts:
    """A thread and its task, to recognise them later."""

    __slots__ = ("_task", "_thread")

    def __init__(self) -> None:
        self._thread = this_thread.token
        task = running_task()
        # Weakly, because the task's context may hold this.
        self._task = None if task is None else weakref.ref(task)

    def is_here(self) -> bool:
        """Return True if the same task, or code outside of all tasks, runs in the same thread."""
        if self._thread is not this_thread.token:
            return False
        task = running_task()
        return task is None if self._task is None else task is not None and self._task() is task
