"""The state of the bus in each thread, and within a thread in each task: subscribers, scopes and waiting events."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ContextDecorator
from contextvars import ContextVar
from types import TracebackType
from typing import Generic, NamedTuple, Protocol, TypeVar

from melange.domain.blocks import Block, Blocks, running_task, this_thread
from melange.domain.subscriptions import NO_ROUTES, Routes
from melange.errors import CascadeError


class Drain:
    """The event that one thread or task is handling, and its waiting events.

    ``is_busy`` is True while a publish runs: later events wait in ``queue``, and calls that must follow all of them
    wait in ``afterwards``. ``awaits`` is True if asynchronous handlers may be called: then ``task`` is the publishing
    task, None outside of tasks. A child task starts with the same object. ``event`` is the one that is being handled.

    A drain that holds events until a block ends (``holds``) is always busy, handles none, and has its ``task`` too.
    ``is_left`` is True if its block has ended in another thread or task; it is busy then, so that a publish looks for
    another drain. ``outer`` is the drain that it replaces; in a scope, it is the drain around the scope.
    """

    __slots__ = (
        "afterwards",
        "awaits",
        "count",
        "event",
        "holds",
        "is_busy",
        "is_left",
        "outer",
        "queue",
        "task",
    )

    def __init__(self, outer: Drain | None = None) -> None:
        self.outer = outer
        self.holds = False
        self.is_left = False
        self.is_busy = False
        self.event: object | None = None
        self.awaits = False
        self.task: object | None = None
        self.queue: deque[object] | None = None
        self.afterwards: deque[tuple[object, Callable[[], object]]] | None = None
        self.count = 0

    def begin(self, events: Iterable[object]) -> None:
        """Queue the events that are published first, from which others may follow."""
        self.queue = deque(events)
        self.count = 0

    def add(self, events: Iterable[object], limit: int) -> None:
        """Queue events.

        Raises:
            CascadeError: ``limit`` events have followed from the first one.
        """
        queue = self._waiting()
        for event in events:
            if not self.holds:
                self.count += 1
                if self.count > limit:
                    raise CascadeError(limit, [type(last).__qualname__ for last in [*queue, event][-4:]])
            queue.append(event)

    def add_afterwards(self, call: Callable[[], object]) -> None:
        """Queue a call until all events are handled; the current event is its event too."""
        self._waiting()
        if self.afterwards is None:
            self.afterwards = deque()
        self.afterwards.append((self.event, call))

    def _waiting(self) -> deque[object]:
        if self.queue is None:
            self.queue = deque()
            self.count = 0
        return self.queue


def holding(outer: Drain, *, awaits: bool) -> Drain:
    """Return a drain that holds events for ``outer``."""
    drain = Drain(outer)
    drain.holds = drain.is_busy = True
    drain.awaits = awaits
    drain.task = running_task()
    return drain


def in_use(drain: Drain) -> Drain:
    """Return the drain, or its outer one if it held events for a block that has ended elsewhere."""
    while drain.is_left and drain.outer is not None:
        drain = drain.outer
    return drain


def drain_inside(around: Local) -> Drain:
    """Return the drain of a scope: its own, except while events are held."""
    drain = in_use(around.drain)
    return drain if drain.holds else Drain(drain)


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


OnCommit = Callable[[Callable[[], None]], object]
"""Makes a call after the commit of the current transaction, never after a rollback, at once without a transaction."""


class Scope(Protocol):
    """The change of a bus in a ``with`` block."""

    def inside(self, around: Local, block: ScopeBlock) -> Local:
        """Return the state in the block, for a thread or task with the state ``around`` outside."""


ScopeBlock = Block[Scope | None]


class Local:
    """The subscribers, the drain, and the way to wait for a commit. Replaced, never changed.

    It is for one thread, and for the scope ``block``; ``around`` is the state outside of that scope.
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
        """Return the same with another drain."""
        return Local(self.routes, drain, self.on_commit, self.block, self.around)

    def inside(self, block: ScopeBlock, routes: Routes, drain: Drain, on_commit: OnCommit | None) -> Local:
        """Return the state in a scope that is opened here."""
        return Local(routes, drain, on_commit, block, self)


class State:
    """Finds the state of the bus here: subscriptions belong to the thread or task, scopes follow the context.

    So each thread or task has its own ``Local`` (``_here``), created again if the scopes have changed. ``current``
    returns the last one of this context, which is fast: it is right if its ``thread`` is ``this_thread.token``. If its
    block was left elsewhere, its drain is busy and ``is_left``.
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
        """Return the state of the bus here."""
        local = self.current()
        return self.arrive() if local.thread is not this_thread.token or local.block.is_left else local

    def arrive(self) -> Local:
        """Return the state of the bus here, after a change of the thread or the scopes."""
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
        """Set the state of the bus in this thread or task."""
        self._here.set(local)
        self._current.set(local)

    def inside(self, scope: Scope) -> OpenScope:
        """Return a ``with`` block with the scope open."""
        return OpenScope(self, scope)

    def enter(self, scope: Scope) -> Entered:
        """Open a scope."""
        around = self.local()
        block = self._scopes.enter(scope)
        local = scope.inside(around, block)
        self.become(local)
        return Entered(block, None if local.drain is around.drain else local.drain)

    def leave(self, entered: Entered) -> None:
        """Close it, and forget its state here; another thread or task forgets it at its next look."""
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
        elif drain is not None:  # it was entered elsewhere: let that thread look again
            drain.is_left = drain.is_busy = True


class Entered(NamedTuple):
    """An open scope, and its own drain in the thread that opened it, if it has one."""

    block: ScopeBlock
    drain: Drain | None


class OpenScope(ContextDecorator):
    """A ``with`` block with a scope. One object may serve several blocks, nested or in several threads."""

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
        if self._open:  # perhaps in other threads: use the one that was entered here, otherwise any
            self._open.append(entered)
            here = self._state.local().block
            entered = next((one for one in self._open if one.block is here), entered)
            self._open.remove(entered)
        self._state.leave(entered)
