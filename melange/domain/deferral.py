"""Blocks that hold events until they end without an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Literal

from melange.domain.event_queue import Drain, holding, in_use
from melange.domain.thread_state import State

ErrorPolicy = Literal["raise", "collect"]
"""``"raise"``: the first error of a subscriber ends a publish. ``"collect"``: all run, then an ``ExceptionGroup``."""


class Deferral:
    """Holds events until the block ends without an error; ``async with`` also for asynchronous subscribers.

    One object may be used for several blocks, nested or in several threads.
    """

    __slots__ = ("_errors", "_open", "_publish", "_publish_async", "_state")

    def __init__(
        self,
        state: State,
        errors: ErrorPolicy,
        publish: Callable[[tuple[object, ...], ErrorPolicy], None],
        publish_async: Callable[[tuple[object, ...], ErrorPolicy], Awaitable[None]],
    ) -> None:
        self._state = state
        self._errors: ErrorPolicy = errors
        self._publish = publish
        self._publish_async = publish_async
        self._open: list[Drain] = []

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
