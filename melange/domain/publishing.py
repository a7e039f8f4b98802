"""Handing events to subscribers: first in, first out, whoever publishes meanwhile."""

# MERGED DOCS: What is said and checked when a subscriber was called. | What the bus is in one thread or task. | Holding events back. | What one thread or task is publishing.

from __future__ import annotations

from asyncio import Task, _get_running_loop, current_task
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import CoroutineType, TracebackType
from typing import Any, Literal

from melange.callables import Handler, qualified_name
from melange.domain.routes import NO_ROUTES, Routes
from melange.domain.thread_variable import ThreadVariable
from melange.errors import CascadeError, ConfigurationError

ErrorPolicy = Literal["raise", "collect"]
"""Whether the first error of a subscriber ends a publish, or all run and an ``ExceptionGroup`` follows."""


def refuse_awaitable(handler: Handler, result: Any) -> None:
    """Raise when a handler that was called synchronously returned something to be awaited."""
    if is_awaitable(result):
        if hasattr(result, "close"):
            result.close()  # a coroutine that nobody awaits would warn
        raise ConfigurationError(
            f"{qualified_name(handler)} returned a {type(result).__name__}, which nobody awaits: publish with "
            "`await bus.publish_async(event)`"
        )


def is_awaitable(result: Any) -> bool:
    """Return whether a handler's result is a coroutine or the like."""
    return hasattr(type(result), "__await__")


def explain(error: BaseException, handler: Handler, event: object) -> None:
    """Note on the error which handler raised it on which event."""
    error.add_note(f"raised by {qualified_name(handler)}, handling {type(event).__qualname__}")


OnCommit = Callable[[Callable[[], None]], object]
"""Has a call made when the transaction of the moment was committed, never if it is rolled back, at once if there is none."""


@dataclass(frozen=True, slots=True)
class Local:
    """The subscribers, what is being published, and how to wait for a commit. Replaced, never changed."""

    routes: Routes
    drain: Drain
    on_commit: OnCommit | None = None


LocalVariable = ThreadVariable[Local]


def nobody_subscribed() -> Local:
    """Return what a new thread starts with."""
    return Local(NO_ROUTES, Drain())


class Deferral:
    """Holds events back until the block has ended well; ``async with`` also for asynchronous subscribers."""

    __slots__ = ("_drain", "_errors", "_here", "_publish", "_publish_async")

    def __init__(
        self,
        here: LocalVariable,
        errors: ErrorPolicy,
        publish: Callable[[tuple[object, ...], ErrorPolicy], None],
        publish_async: Callable[[tuple[object, ...], ErrorPolicy], Awaitable[None]],
    ) -> None:
        self._here = here
        self._errors: ErrorPolicy = errors
        self._publish = publish
        self._publish_async = publish_async

    def __enter__(self) -> None:
        self._hold(awaits=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        events = self._release()
        if kind is None and events:
            self._publish(events, self._errors)

    async def __aenter__(self) -> None:
        self._hold(awaits=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        events = self._release()
        if kind is None and events:
            await self._publish_async(events, self._errors)

    def _hold(self, *, awaits: bool) -> None:
        local = self._here.get()
        self._drain: Drain = holding(local.drain, awaits=awaits)
        self._here.set(Local(local.routes, self._drain, local.on_commit))

    def _release(self) -> tuple[object, ...]:
        local = self._here.get()
        assert self._drain.outer is not None
        self._here.set(Local(local.routes, self._drain.outer, local.on_commit))
        return tuple(self._drain.queue or ())


class Drain:
    """The events of one thread or task that wait until those before them were handled.

    ``is_busy`` says that somebody publishes: what is published meanwhile waits in ``queue``. ``awaits`` is true
    where asynchronous handlers may be called: there ``task`` is that somebody, None outside of asyncio. A child
    task has the same object at first, and is another one. ``event`` is the one that is being handled.

    The one that holds events back until a block ends (``holds``) is always busy, handles none, and knows its
    ``task`` too. ``outer`` is the one that it stands for; that of a scope has the one around the scope there.
    """

    __slots__ = ("awaits", "count", "event", "holds", "is_busy", "outer", "queue", "task")

    def __init__(self, outer: Drain | None = None) -> None:
        self.outer = outer
        self.holds = False
        self.is_busy = False
        self.event: object | None = None
        self.awaits = False
        self.task: Task[Any] | None = None
        self.queue: deque[object] | None = None
        self.count = 0

    def add(self, events: Iterable[object], limit: int) -> None:
        """Let events wait for their turn.

        Raises:
            CascadeError: ``limit`` events have followed from the one that was published first.
        """
        if self.queue is None:
            self.queue = deque()
            self.count = 0
        for event in events:
            if not self.holds:
                self.count += 1
                if self.count > limit:
                    raise CascadeError(limit, [type(last).__qualname__ for last in [*self.queue, event][-4:]])
            self.queue.append(event)


def holding(outer: Drain, *, awaits: bool) -> Drain:
    """Return a drain that holds events back for ``outer``."""
    drain = Drain(outer)
    drain.holds = drain.is_busy = True
    drain.awaits = awaits
    drain.task = running_task()
    return drain


def running_task() -> Task[Any] | None:
    """Return the asyncio task that runs in this thread, if any."""
    loop = _get_running_loop()
    return None if loop is None else current_task(loop)


class Publishing:
    """The half of the bus that publishes.

    ``publish`` and ``publish_async`` hold the main path whole, for speed: one event that nobody else's handling
    has called forth, errors raised. Everything else goes through ``_publish_all`` and its twin.
    """

    __slots__ = ("_here", "cascade_limit")

    def __init__(self, cascade_limit: int) -> None:
        self.cascade_limit = cascade_limit
        self._here = LocalVariable("melange.domain.DomainEventBus", nobody_subscribed)

    # ``errors`` is no keyword-only argument, because calls of functions that have one are slower.
    def publish(self, event: object, errors: ErrorPolicy = "raise") -> None:
        """Call the subscribers of the event's class, and of those that it inherits from.

        Returns when they have run. Published while another event is being handled, it is handled after that
        one and what was published before it, and this returns at once: the first publish does the work, and
        its ``errors`` hold.

        ``errors="raise"``: what a subscriber raises reaches the caller as it is; subscribers and events that
        come after it are left out. ``errors="collect"``: all run, then an ``ExceptionGroup`` is raised;
        what is no ``Exception`` (``KeyboardInterrupt``) passes at once. Either way the bus works on.

        Raises:
            ConfigurationError: an asynchronous subscriber listens to it; nobody was called.
            CascadeError: events call forth events without an end.
        """
        local = self._here.get()
        drain = local.drain
        if drain.is_busy or errors != "raise":
            self._publish_all((event,), errors)
            return
        try:
            handlers = local.routes.compiled[type(event)]
        except KeyError:
            handlers = local.routes.for_publish(type(event))
        try:
            drain.event = event
            drain.is_busy = True
            try:
                for handler in handlers:
                    result = handler(event)
                    if result is not None:
                        refuse_awaitable(handler, result)
            except BaseException as error:
                explain(error, handler, event)
                raise
            if drain.queue is not None:
                self._work_off(drain, None)
        finally:  # by assignments alone, which no signal divides: it could leave the bus mute
            drain.queue = drain.event = None
            drain.is_busy = False

    async def publish_async(self, event: object, errors: ErrorPolicy = "raise") -> None:
        """Do as ``publish`` does, and await the subscribers that are asynchronous, one after the other.

        Raises:
            CascadeError: events call forth events without an end.
        """
        local = self._here.get()
        drain = local.drain
        if drain.is_busy or errors != "raise":
            await self._publish_all_async((event,), errors)
            return
        try:
            handlers = local.routes.compiled_async[type(event)]
        except KeyError:
            handlers = local.routes.for_publish_async(type(event))
        try:
            drain.event = event
            drain.is_busy = drain.awaits = True
            drain.task = running_task()
            try:
                for handler in handlers:
                    result = handler(event)
                    # Coroutines first, because that is quick.
                    if result is not None and (type(result) is CoroutineType or is_awaitable(result)):
                        await result
            except BaseException as error:
                explain(error, handler, event)
                raise
            if drain.queue is not None:
                await self._work_off_async(drain, None)
        finally:
            drain.queue = drain.task = drain.event = None
            drain.is_busy = drain.awaits = False

    def is_publishing(self) -> bool:
        """Return whether the caller is, directly or not, called by a subscriber of this thread or task."""
        drain: Drain | None = self._own_local(awaits=False).drain
        while drain is not None and drain.holds:
            drain = drain.outer
        return drain is not None and drain.is_busy

    def event_being_handled(self) -> object | None:
        """Return the event whose subscriber is calling, directly or not, in this thread or task; None outside of one.

        In a scope that a subscriber opened it is that subscriber's event, while none is handled in the scope.
        In a task that a subscriber started it is None.
        """
        drain: Drain | None = self._here.get().drain
        while drain is not None:
            # Whoever is awaited, and is another task, may share this drain.
            if drain.is_busy and not drain.holds and (not drain.awaits or drain.task is running_task()):
                return drain.event
            drain = drain.outer
        return None

    def _publish_all(self, events: tuple[object, ...], errors: ErrorPolicy) -> None:
        failures = _no_failures(errors)
        local = self._own_local(awaits=False)
        drain = local.drain
        if not drain.awaits:
            for event in events:  # refused now, by its publisher, if one of its subscribers is asynchronous
                local.routes.for_publish(type(event))
        if drain.is_busy:
            drain.add(events, self.cascade_limit)
            return
        try:
            drain.is_busy = True
            drain.queue = deque(events)
            drain.count = 0
            self._work_off(drain, failures)
        finally:
            drain.queue = drain.event = None
            drain.is_busy = False
        _raise_collected(failures)

    async def _publish_all_async(self, events: tuple[object, ...], errors: ErrorPolicy) -> None:
        failures = _no_failures(errors)
        drain = self._own_local(awaits=True).drain
        if drain.is_busy:
            self._publish_all(events, errors)
            return
        try:
            drain.is_busy = drain.awaits = True
            drain.task = running_task()
            drain.queue = deque(events)
            drain.count = 0
            await self._work_off_async(drain, failures)
        finally:
            drain.queue = drain.task = drain.event = None
            drain.is_busy = drain.awaits = False
        _raise_collected(failures)

    def _work_off(self, drain: Drain, failures: list[Exception] | None) -> None:
        queue = drain.queue
        while queue:
            event = drain.event = queue.popleft()
            for handler in self._here.get().routes.for_publish(type(event)):
                try:
                    result = handler(event)
                    if result is not None:
                        refuse_awaitable(handler, result)
                except BaseException as error:
                    _keep_or_raise(failures, error, handler, event)

    async def _work_off_async(self, drain: Drain, failures: list[Exception] | None) -> None:
        queue = drain.queue
        while queue:
            event = drain.event = queue.popleft()
            for handler in self._here.get().routes.for_publish_async(type(event)):
                try:
                    result = handler(event)
                    if result is not None and is_awaitable(result):
                        await result
                except BaseException as error:
                    _keep_or_raise(failures, error, handler, event)

    def _own_local(self, *, awaits: bool) -> Local:
        """Return what this task works with, for it may have begun with the drain of a task that is busy.

        Who publishes synchronously is not written down, for speed. A subscriber of theirs cannot await, so
        whoever does is another task; all others are taken for their subscribers.
        """
        local = self._here.get()
        drain = local.drain
        if not drain.is_busy:
            return local
        is_known = drain.awaits or drain.holds
        if drain.task is not running_task() if is_known else awaits:
            local = Local(local.routes, Drain(), local.on_commit)
            self._here.set(local)
        return local


def _no_failures(errors: ErrorPolicy) -> list[Exception] | None:
    """Return where to collect what handlers raise; None to let it pass."""
    if errors not in ("raise", "collect"):
        raise ConfigurationError(f"errors must be 'raise' or 'collect', not {errors!r}")
    return [] if errors == "collect" else None


def _keep_or_raise(
    failures: list[Exception] | None, error: BaseException, handler: Handler, event: object
) -> None:
    explain(error, handler, event)
    if failures is None or not isinstance(error, Exception):
        raise error
    failures.append(error)


def _raise_collected(failures: list[Exception] | None) -> None:
    if failures:
        raise ExceptionGroup(f"{len(failures)} calls of domain subscribers failed", failures)
