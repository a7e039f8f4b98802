"""The open ``with`` blocks around the running code. They follow its context into other threads."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Generic, TypeVar

from melange.domain.tasks import Whereabouts

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
