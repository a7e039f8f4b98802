"""Holding events back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType

from melange.domain.calls import ErrorPolicy
from melange.domain.drain import Drain, holding
from melange.domain.local import Local, LocalVariable


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
