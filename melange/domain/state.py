"""What a bus is in one thread or task, within the scopes around it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple, Protocol

from melange.domain.blocks import Block, Blocks
from melange.domain.drain import Drain, in_use
from melange.domain.routes import NO_ROUTES, Routes
from melange.domain.tasks import this_thread
from melange.domain.thread_variable import ThreadVariable

OnCommit = Callable[[Callable[[], None]], object]
"""Has a call made when the transaction of the moment was committed, never if it is rolled back, at once if there is none."""


class Scope(Protocol):
    """What a ``with`` block makes of the bus."""

    def inside(self, around: Local, block: ScopeBlock) -> Local:
        """Return what the bus is in the block, for a thread or task in which it is ``around`` outside."""


ScopeBlock = Block[Scope | None]


class Local:
    """The subscribers, what is being published, and how to wait for a commit. Replaced, never changed.

    It is for one thread, and for the scope ``block``; ``around`` is what the bus was outside of that.
    """

    __slots__ = ("around", "block", "compiled", "drain", "on_commit", "routes", "thread")

    def __init__(
        self,
        routes: Routes,
        drain: Drain,
        on_commit: OnCommit | None,
        block: ScopeBlock,
        around: Local | None,
    ) -> None:
        self.routes = routes
        self.compiled = routes.compiled
        self.drain = drain
        self.on_commit = on_commit
        self.block = block
        self.around = around
        self.thread: object = this_thread.token

    def with_routes(self, routes: Routes) -> Local:
        """Return the same with other subscribers."""
        return Local(routes, self.drain, self.on_commit, self.block, self.around)

    def with_drain(self, drain: Drain) -> Local:
        """Return the same where something else is being published."""
        return Local(self.routes, drain, self.on_commit, self.block, self.around)

    def inside(self, block: ScopeBlock, routes: Routes, drain: Drain, on_commit: OnCommit | None) -> Local:
        """Return what the bus is in a scope that is opened here."""
        return Local(routes, drain, on_commit, block, self)


class State:
    """Finds what the bus is here: subscriptions belong to the thread or task, scopes follow the context.

    So each thread or task has a ``Local`` of its own (``_here``), made again when it is found in other scopes than
    before. ``current`` returns the one that was found last in this context, which is quick: it is right if its
    ``thread`` is ``this_thread.token``. Where its block was left elsewhere, its drain is busy and says so.
    """

    __slots__ = ("_current", "_here", "_scopes", "current")

    def __init__(self, name: str) -> None:
        self._scopes: Blocks[Scope | None] = Blocks(f"{name}.scopes", None)
        outside = self._scopes.innermost()
        self._here: ThreadVariable[Local] = ThreadVariable(
            name, lambda: Local(NO_ROUTES, Drain(), None, outside, None)
        )
        nobodys = Local(NO_ROUTES, Drain(), None, outside, None)
        nobodys.thread = None  # so that each thread looks further
        self._current: ContextVar[Local] = ContextVar(f"{name}.current", default=nobodys)
        self.current = self._current.get

    def local(self) -> Local:
        """Return what the bus is here."""
        local = self.current()
        return self.arrive() if local.thread is not this_thread.token or local.block.is_left else local

    def arrive(self) -> Local:
        """Return what the bus is here, where it was another thing before, or in other scopes."""
        local = self._here.get()
        blocks = self._scopes.in_force()
        while local.around is not None and local.block not in blocks:
            local = local.around
        known = 0 if local.around is None else blocks.index(local.block) + 1
        for block in blocks[known:]:
            assert block.value is not None
            local = block.value.inside(local, block)
        self.become(local)
        return local

    def become(self, local: Local) -> None:
        """Make the bus something else in this thread or task."""
        self._here.set(local)
        self._current.set(local)

    def inside(self, scope: Scope) -> OpenScope:
        """Return a ``with`` block in which the scope is open."""
        return OpenScope(self, scope)

    def enter(self, scope: Scope) -> Entered:
        """Open a scope."""
        around = self.local()
        block = self._scopes.enter(scope)
        local = scope.inside(around, block)
        self.become(local)
        return Entered(block, None if local.drain is around.drain else local.drain)

    def leave(self, entered: Entered) -> None:
        """Close it, and forget what the bus was in it here; another thread or task forgets it when it next looks."""
        block, drain = entered
        was_innermost = self._scopes.leave(block)
        local = self._here.get()
        if was_innermost and local.block is block and local.around is not None:
            self.become(local.around)
            return
        outside: Local | None = local
        while outside is not None and outside.block is not block:
            outside = outside.around
        if outside is not None and outside.around is not None:
            self._here.set(outside.around)
            self.arrive()
        elif drain is not None:  # it was entered elsewhere: make them look there
            drain.is_left = drain.is_busy = True


class Entered(NamedTuple):
    """A scope that was opened, and what it publishes with where that was, if with a drain of its own."""

    block: ScopeBlock
    drain: Drain | None


class OpenScope(ContextDecorator):
    """A ``with`` block with a scope. One object may serve several, inside of each other or in several threads."""

    __slots__ = ("_open", "_scope", "_state")

    def __init__(self, state: State, scope: Scope) -> None:
        self._state = state
        self._scope = scope
        self._open: list[Entered] = []

    def __enter__(self) -> None:
        self._open.append(self._state.enter(self._scope))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered = self._open.pop()
        if (
            self._open
        ):  # in other threads perhaps: take the one that was entered here; if there is none, any will do
            self._open.append(entered)
            here = self._state.local().block
            entered = next((one for one in self._open if one.block is here), entered)
            self._open.remove(entered)
        self._state.leave(entered)


def drain_inside(around: Local) -> Drain:
    """Return what a scope publishes with: on its own, but for events that are held back, which stay so."""
    drain = in_use(around.drain)
    return drain if drain.holds else Drain(drain)
