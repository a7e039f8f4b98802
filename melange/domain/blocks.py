"""Blocks that a thread or task has entered, and how to tell threads and tasks apart."""

from __future__ import annotations

import sys
import threading
import weakref
from asyncio import _get_running_loop, current_task
from contextvars import ContextVar
from typing import Any, Generic, TypeVar


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


ValueT = TypeVar("ValueT")


class Block(Generic[ValueT]):
    """One ``with`` block and its ``outer`` block; the outermost one has an empty ``outer``."""

    __slots__ = ("_entered", "is_left", "outer", "value")

    def __init__(self, value: ValueT, outer: Block[ValueT] | None) -> None:
        self.value = value
        self.outer = outer
        self.is_left = False
        self._entered = Whereabouts()

    def is_in_force(self) -> bool:
        """Return True if it is open, or inherited: a task keeps its blocks after its parent leaves them."""
        return not self.is_left or not self._entered.is_here()


class Blocks(Generic[ValueT]):
    """The blocks around the running code, each with a value; they follow the context.

    A new task starts in the blocks of the code that created it. So does code in ``asyncio.to_thread`` and in the
    thread pools of Starlette and asgiref. Leaving a block removes only what entering it has added. If it is left in
    another context (a generator closed in another thread, or by the garbage collector), nothing changes there, and
    the block also ends where it was entered.
    """

    def __init__(self, name: str, nothing: ValueT) -> None:
        outermost = Block(nothing, None)
        self._innermost = ContextVar(name, default=outermost)
        self.innermost = self._innermost.get

    def enter(self, value: ValueT) -> Block[ValueT]:
        """Open a block inside of the open ones."""
        around = self.innermost()
        while around.outer is not None and not around.is_in_force():
            around = around.outer
        block = Block(value, around)
        self._innermost.set(block)
        return block

    def leave(self, block: Block[ValueT]) -> bool:
        """Close it, in any context; return True if it was the innermost one here."""
        block.is_left = True
        if self.innermost() is not block:
            return False
        assert block.outer is not None
        self._innermost.set(block.outer)
        return True

    def in_force(self) -> list[Block[ValueT]]:
        """Return the blocks around the running code, the outermost first."""
        blocks = []
        block = self.innermost()
        while block.outer is not None:
            if block.is_in_force():
                blocks.append(block)
            block = block.outer
        return blocks[::-1]
