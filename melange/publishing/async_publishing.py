"""Publishing by the tasks of an event loop: many share a call to the broker, and none holds up the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from weakref import WeakKeyDictionary, ref

from melange.asynchronous import running_loop, schedule
from melange.drivers.base import MessagingDriver
from melange.errors import Failure
from melange.messages import Message
from melange.publishing.gathering import Answer, Gatherer, Waiting

TURNS = 50
"""So many messages are made in one turn of the event loop."""


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
            schedule(loop, self._set, answers)

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
