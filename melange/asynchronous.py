"""What asyncio awaits and a thread does: the asynchronous methods of publishers, consumers and drivers."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar
from weakref import WeakKeyDictionary, ref

from melange.drivers.base import MessagingDriver
from melange.errors import ConfigurationError, Failure
from melange.gathering import Answer, Gatherer, Waiting
from melange.messages import Message

Result = TypeVar("Result")

TURNS = 50
"""So many messages are made in one turn of the event loop."""


def running_loop(what: str) -> asyncio.AbstractEventLoop:
    """Return the running event loop of asyncio.

    Raises:
        ConfigurationError: none runs in this thread, as in a program on trio.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            f"{what} needs a running event loop of asyncio, and there is none in this thread. On trio, call the method "
            "without _async in a thread: trio.to_thread.run_sync(...)"
        ) from None


async def in_thread(call: Callable[[], Result], what: str) -> Result:
    """Return the result of a blocking call, made on a daemon thread of its own, so that it never keeps the process alive.

    If this is cancelled, the call goes on, and its result is discarded.
    """
    loop = running_loop(what)
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():  # the awaiting task was cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # without an error it is one

    context = copy_context()

    def run() -> None:
        try:
            result = context.run(call)
        except BaseException as error:
            _later(loop, settle, None, error)
        else:
            _later(loop, settle, result, None)

    threading.Thread(target=run, name="melange-async", daemon=True).start()
    return await future


async def hand_over_async(
    gatherer: Gatherer, driver: MessagingDriver, messages: Sequence[Message], delay_seconds: int, what: str
) -> list[Failure[Message]]:
    """Publish messages together with those of other tasks, and return the failed ones.

    If this is cancelled, messages that still wait are not published; others may be.
    """
    callers = _callers_of(running_loop(what))
    waiting = _Awaited(driver, messages, delay_seconds, callers)
    gatherer.add(waiting)
    try:
        answer = await waiting.future
    except asyncio.CancelledError:
        gatherer.withdraw(waiting)
        raise
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def take_turn(what: str) -> None:
    """Wait while many other tasks make messages, so that a thousand at once do not hold up the event loop.

    Tasks continue in the order in which they came here.
    """
    await _callers_of(running_loop(what)).take_turn()


class _Callers:
    """The tasks of one event loop that publish. Used on that loop, apart from ``deliver``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # the loop is not kept alive by what is kept for it
        self._turns = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._called = 0
        """The tasks that were called out of the queue and have not come yet."""

    async def take_turn(self) -> None:
        loop = asyncio.get_running_loop()
        if self._turns == 0:
            loop.call_soon(self._begin_turn)
        if self._turns < TURNS and not self._queue and not self._called:
            self._turns += 1
            return
        self._turns = max(self._turns, 1)  # the next turn is called already
        place = loop.create_future()
        self._queue.append(place)
        try:
            await place
        finally:
            if place.done() and not place.cancelled():
                self._called -= 1

    def _begin_turn(self) -> None:
        self._turns = 0
        while self._queue and self._turns < TURNS:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                self._called += 1
                self._turns += 1
        if self._turns:
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def deliver(self, answers: Sequence[tuple[Waiting, Answer]]) -> None:
        """Wake the loop once for all of them."""
        loop = self._loop()
        if loop is not None:
            _later(loop, self._set, answers)

    def _set(self, answers: Sequence[tuple[Waiting, Answer]]) -> None:
        for waiting, answer in answers:
            assert isinstance(waiting, _Awaited)
            if not waiting.future.done():
                waiting.future.set_result(answer)


_callers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Callers] = WeakKeyDictionary()


def _callers_of(loop: asyncio.AbstractEventLoop) -> _Callers:
    callers = _callers.get(loop)
    if callers is None:
        callers = _callers[loop] = _Callers(loop)
    return callers


class _Awaited(Waiting):
    """A caller that awaits its answer."""

    __slots__ = ("future",)

    def __init__(
        self, driver: MessagingDriver, messages: Sequence[Message], delay_seconds: int, callers: _Callers
    ) -> None:
        super().__init__(driver, messages, delay_seconds, callers.deliver)
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()


def _later(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    with suppress(RuntimeError):  # the loop is closed, so nothing waits any more
        loop.call_soon_threadsafe(call, *arguments)
