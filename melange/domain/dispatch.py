"""Publish events to subscribers, first in, first out: at once, or at the end of a block that holds them."""

from __future__ import annotations

from types import CoroutineType, TracebackType
from typing import Literal

from melange.callables import Handler, is_awaitable, qualified_name, refuse_awaitable
from melange.domain.blocks import running_task, this_thread
from melange.domain.thread_state import Drain, Local, State, holding, in_use
from melange.errors import ConfigurationError

ErrorPolicy = Literal["raise", "collect"]
"""``"raise"``: the first error of a subscriber ends a publish. ``"collect"``: all run, then an ``ExceptionGroup``."""

_RAISE: ErrorPolicy = "raise"
_AWAIT = "publish with `await bus.publish_async(event)`"


class Publishing:
    """The publishing part of the bus.

    ``publish`` and ``publish_async`` contain the whole main path, for speed: one event, outside of other events, with
    errors raised. Everything else goes through ``_publish_all`` and its asynchronous twin.
    """

    __slots__ = ("_current", "_state", "cascade_limit")

    def __init__(self, cascade_limit: int) -> None:
        self.cascade_limit = cascade_limit
        self._state = State("melange.domain.DomainEventBus")
        self._current = self._state.current  # as the main path needs it

    # ``errors`` is not a keyword-only argument, because calls of functions with one are slower.
    def publish(self, event: object, errors: ErrorPolicy = _RAISE) -> None:
        """Call the subscribers of the event's class and of its base classes.

        Returns when they have run. If another event is being handled, the new event waits for it and for earlier
        ones, and this returns at once: the first publish does the work, with its ``errors``.

        ``errors="raise"``: an exception of a subscriber reaches the caller unchanged; later subscribers and events are
        dropped. ``errors="collect"``: all run, then an ``ExceptionGroup`` is raised; other exceptions than
        ``Exception`` (``KeyboardInterrupt``) are raised at once. The bus can be used again after both.

        Raises:
            ConfigurationError: an asynchronous subscriber listens to it, and none was called. Or the result of a
                subscriber must be awaited.
            CascadeError: an infinite loop of events.
        """
        local = self._current()
        if local.thread is not this_thread.token:
            local = self._state.arrive()
        drain = local.drain
        if drain.is_busy or errors is not _RAISE:  # if it is equal, the publish only takes the longer path
            self._publish_all((event,), errors)
            return
        try:
            handlers = local.compiled[type(event)]
        except KeyError:
            handlers = local.routes.for_publish(type(event))
        try:
            drain.event = event
            drain.is_busy = True
            try:
                for handler in handlers:
                    result = handler(event)
                    if result is None:
                        continue
                    refuse_awaitable(handler, result, _AWAIT)
            except BaseException as error:
                explain(error, handler, event)
                raise
            if drain.queue is not None:
                self._work_off(drain, None)
        finally:  # only assignments, which no signal can divide: otherwise the bus could stay busy
            drain.queue = drain.afterwards = drain.event = None
            drain.is_busy = drain.is_left

    async def publish_async(self, event: object, errors: ErrorPolicy = _RAISE) -> None:
        """Publish like ``publish``, and await asynchronous subscribers, one after the other.

        It works under asyncio and under Trio.

        Raises:
            CascadeError: an infinite loop of events.
        """
        local = self._current()
        if local.thread is not this_thread.token:
            local = self._state.arrive()
        drain = local.drain
        if drain.is_busy or errors is not _RAISE:
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
                    # Coroutines first, because that check is fast.
                    if result is None or not (type(result) is CoroutineType or is_awaitable(result)):
                        continue
                    await result
            except BaseException as error:
                explain(error, handler, event)
                raise
            if drain.queue is not None:
                await self._work_off_async(drain, None)
        finally:
            drain.queue = drain.afterwards = drain.task = drain.event = None
            drain.awaits = False
            drain.is_busy = drain.is_left

    def is_publishing(self) -> bool:
        """Return True if a subscriber of this thread or task calls this, directly or not."""
        drain: Drain | None = self._own_local(awaits=False).drain
        while drain is not None and drain.holds:
            drain = drain.outer
        return drain is not None and drain.is_busy

    def event_being_handled(self) -> object | None:
        """Return the event that the current subscriber handles, in this thread or task; None outside of a subscriber.

        In a scope that a subscriber opened it is that subscriber's event, while none is handled in the scope.
        In a task that a subscriber started it is None.
        """
        drain: Drain | None = self._state.local().drain
        while drain is not None:
            # Another task that is awaited may share this drain.
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
            drain.begin(events)
            self._work_off(drain, failures)
        finally:
            drain.queue = drain.afterwards = drain.event = None
            drain.is_busy = drain.is_left
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
            drain.begin(events)
            await self._work_off_async(drain, failures)
        finally:
            drain.queue = drain.afterwards = drain.task = drain.event = None
            drain.awaits = False
            drain.is_busy = drain.is_left
        _raise_collected(failures)

    def _work_off(self, drain: Drain, failures: list[Exception] | None) -> None:
        while drain.queue or drain.afterwards:
            if not drain.queue:
                _call_next(drain, failures)
                continue
            event = drain.event = drain.queue.popleft()
            for handler in self._state.local().routes.for_publish(type(event)):
                try:
                    result = handler(event)
                    if result is not None:
                        refuse_awaitable(handler, result, _AWAIT)
                except BaseException as error:
                    explain(error, handler, event)
                    _keep_or_raise(failures, error)

    async def _work_off_async(self, drain: Drain, failures: list[Exception] | None) -> None:
        while drain.queue or drain.afterwards:
            if not drain.queue:
                _call_next(drain, failures)
                continue
            event = drain.event = drain.queue.popleft()
            for handler in self._state.local().routes.for_publish_async(type(event)):
                try:
                    result = handler(event)
                    if result is not None and is_awaitable(result):
                        await result
                except BaseException as error:
                    explain(error, handler, event)
                    _keep_or_raise(failures, error)

    def _own_local(self, *, awaits: bool) -> Local:
        """Return the state of this task, which may have started with the drain of a busy task.

        A synchronous publish does not record its task, for speed. Its subscribers cannot await, so a caller that awaits
        is another task; all other callers are taken for its subscribers.
        """
        local = self._state.local()
        drain = in_use(local.drain)
        if drain.is_busy:
            is_known = drain.awaits or drain.holds
            if drain.task is not running_task() if is_known else awaits:
                drain = Drain()
        if drain is not local.drain:
            local = local.with_drain(drain)
            self._state.become(local)
        return local


class Deferral:
    """Holds events until the block ends without an error; ``async with`` also for asynchronous subscribers.

    One object may be used for several blocks, nested or in several threads.
    """

    __slots__ = ("_bus", "_errors", "_open", "_state")

    def __init__(self, bus: Publishing, errors: ErrorPolicy) -> None:
        self._bus = bus
        self._state = bus._state
        self._errors: ErrorPolicy = errors
        self._open: list[Drain] = []

    def __enter__(self) -> None:
        self._hold(awaits=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        events = self._release()
        if kind is None and events:
            self._bus._publish_all(events, self._errors)

    async def __aenter__(self) -> None:
        self._hold(awaits=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        events = self._release()
        if kind is None and events:
            await self._bus._publish_all_async(events, self._errors)

    def _hold(self, *, awaits: bool) -> None:
        local = self._state.local()
        drain = holding(in_use(local.drain), awaits=awaits)
        self._open.append(drain)
        self._state.become(local.with_drain(drain))

    def _release(self) -> tuple[object, ...]:
        """End the block that was entered here last, or, if it was entered elsewhere, the last one of all."""
        local = self._state.local()
        drain = local.drain if local.drain in self._open else self._open[-1]
        self._open.remove(drain)
        drain.is_left = True
        # In the other thread or task, the next publish finds that it has ended.
        if local.drain is drain:
            self._state.become(local.with_drain(in_use(drain)))
        return tuple(drain.queue or ())


def explain(error: BaseException, handler: Handler, event: object) -> None:
    """Add a note with the handler and the event to the error."""
    error.add_note(f"raised by {qualified_name(handler)}, handling {type(event).__qualname__}")


def _call_next(drain: Drain, failures: list[Exception] | None) -> None:
    assert drain.afterwards is not None
    drain.event, call = drain.afterwards.popleft()
    try:
        call()
    except BaseException as error:  # its text names the event
        _keep_or_raise(failures, error)


def _no_failures(errors: ErrorPolicy) -> list[Exception] | None:
    """Return a list for the errors of handlers; None to raise them."""
    if errors not in ("raise", "collect"):
        raise ConfigurationError(f"errors must be 'raise' or 'collect', not {errors!r}")
    return [] if errors == "collect" else None


def _keep_or_raise(failures: list[Exception] | None, error: BaseException) -> None:
    if failures is None or not isinstance(error, Exception):
        raise error
    failures.append(error)


def _raise_collected(failures: list[Exception] | None) -> None:
    if failures:
        raise ExceptionGroup(f"{len(failures)} calls of domain subscribers failed", failures)
