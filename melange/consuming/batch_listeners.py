"""Listeners that take many events at once. Each event is still a delivery of its own: claimed, marked and settled alone."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from melange.asynchronous import start_in_thread
from melange.callables import is_asynchronous, is_awaitable, place
from melange.errors import ConfigurationError, PartialFailure, is_number, is_whole_number
from melange.messages import handled_message

logger = logging.getLogger(__name__)

MOST_EVENTS = 10_000
_OFFERED = ("message_ids", "sessions")


@dataclass(slots=True)
class _Entry:
    event: Any
    message_id: str
    ended: asyncio.Future[None]
    session: object


@dataclass(slots=True, eq=False)
class _Batch:
    loop: asyncio.AbstractEventLoop
    entries: list[_Entry] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    run: asyncio.Task[None] | None = None


class BatchListener:
    """Gathers the events of one batch listener on the event loop of its worker.

    A batch begins with its first event. It runs when it has ``max_events``, or as many as the worker runs at once, and
    after ``max_seconds`` at the latest. Several batches may run at once. A plain function runs on a thread of its own. A
    run is cancelled when all of its events were given up; ``give_up`` is called with the thread of a plain function then.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *,
        max_events: int,
        max_seconds: float,
        concurrency: Callable[[], int],
        give_up: Callable[[threading.Thread, str], None],
    ) -> None:
        _check(max_events, max_seconds)
        if not callable(function):
            raise ConfigurationError(f"a batch listener is a function of a list of events, not {function!r}")
        self._function = function
        self._is_async = is_asynchronous(function)
        self._asked_for = _asked_for(function)
        if "sessions" in self._asked_for and not self._is_async:
            raise ConfigurationError(
                f"{place(function)} asks for `sessions`, which belong to an event loop: make it `async def`"
            )
        self._max_events = max_events
        self._max_seconds = max_seconds
        self._concurrency = concurrency
        self._give_up = give_up
        self._gathering: _Batch | None = None
        self._running: set[asyncio.Task[None]] = set()

    @property
    def listener(self) -> Callable[..., object]:
        """What is subscribed for single events; it asks for a session if the function asks for sessions."""
        return self._process_in_session if "sessions" in self._asked_for else self._process

    async def _process(self, event: Any, message_id: str) -> None:
        """Return when the batch of this event has run; raise if this event failed."""
        await self._process_in_session(event, message_id, None)

    async def _process_in_session(self, event: Any, message_id: str, session: object) -> None:
        loop = asyncio.get_running_loop()
        batch = self._gathering
        if batch is None or batch.loop is not loop:
            batch = self._gathering = _Batch(loop)
            batch.timer = loop.call_later(self._max_seconds, self._begin, batch)
        entry = _Entry(event, message_id, loop.create_future(), session)
        batch.entries.append(entry)
        if len(batch.entries) >= min(self._max_events, self._concurrency()):
            self._begin(batch)
        try:
            await entry.ended
        except asyncio.CancelledError:  # its time limit, or the end of the worker
            run = batch.run
            if run is not None and not run.done() and all(one.ended.done() for one in batch.entries):
                run.cancel()
                await asyncio.wait([run])
            raise

    def _begin(self, batch: _Batch) -> None:
        if self._gathering is batch:
            self._gathering = None
        if batch.timer is not None:
            batch.timer.cancel()
        # Those that are done were given up or cancelled meanwhile.
        entries = [entry for entry in batch.entries if not entry.ended.done()]
        if entries:
            batch.run = batch.loop.create_task(self._run(entries))
            self._running.add(batch.run)
            batch.run.add_done_callback(self._running.discard)

    async def _run(self, entries: Sequence[_Entry]) -> None:
        handled_message.set(None)  # the batch has many; this task has a context of its own
        errors: Mapping[int, BaseException] = {}
        try:
            try:
                await self._call(entries)
            except PartialFailure as partial:
                errors = _checked(partial, len(entries))
        except BaseException as error:
            errors = dict.fromkeys(range(len(entries)), error)
            if not isinstance(error, Exception):
                raise
        finally:
            for number, entry in enumerate(entries):
                if not entry.ended.done():
                    _end(entry.ended, errors.get(number))

    async def _call(self, entries: Sequence[_Entry]) -> None:
        events = [entry.event for entry in entries]
        offered: dict[str, list[Any]] = {
            "message_ids": [entry.message_id for entry in entries],
            "sessions": [entry.session for entry in entries],
        }
        keywords = {name: offered[name] for name in self._asked_for}
        if self._is_async:
            result = self._function(events, **keywords)
        else:
            result = await self._on_a_thread(lambda: self._function(events, **keywords))
        if is_awaitable(result):  # also from a plain function around an asynchronous one
            await result  # type: ignore[misc] # an awaitable

    async def _on_a_thread(self, call: Callable[[], object]) -> object:
        """Return the result of the call, run on a thread of its own; report the thread if the call does not end in time."""

        def contained() -> object:
            try:
                return call()
            except Exception:
                raise
            except BaseException as error:  # SystemExit would end the event loop
                raise RuntimeError(f"a batch listener raised {type(error).__name__}") from error

        what = f"batch listener {place(self._function)}"
        try:
            ended, thread = start_in_thread(contained, what)
        except RuntimeError as error:  # the system cannot start a thread; that must not use up attempts
            logger.warning("%s runs on the event loop: %s", what, error)
            return call()
        try:
            return await ended
        except asyncio.CancelledError:
            if thread.is_alive():
                self._give_up(thread, what)
            raise


def _end(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if error is None:
        ended.set_result(None)
    elif isinstance(error, asyncio.CancelledError):
        ended.cancel()
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        ended.set_exception(error)
    else:
        ended.set_exception(RuntimeError(f"a batch listener raised {type(error).__name__}"))


def _checked(partial: PartialFailure, count: int) -> Mapping[int, BaseException]:
    for number in partial.errors:
        if not 0 <= number < count:
            raise ConfigurationError(
                f"PartialFailure names event {number}, and the batch has {count}: its keys are places in the list of "
                "events, from 0"
            )
    return partial.errors


def _asked_for(function: Callable[..., object]) -> frozenset[str]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):  # some callables in C have none
        return frozenset()
    for parameter in parameters[1:]:
        if parameter.default is parameter.empty and parameter.name not in _OFFERED:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            raise ConfigurationError(
                f"{place(function)} asks for {parameter.name!r}: a batch listener takes a list of events, and the keywords "
                "message_ids and, with an inbox, sessions"
            )
    return frozenset(parameter.name for parameter in parameters[1:] if parameter.name in _OFFERED)


def _check(max_events: int, max_seconds: float) -> None:
    if not is_whole_number(max_events) or not 1 <= max_events <= MOST_EVENTS:
        raise ConfigurationError(
            f"max_events must be a whole number from 1 to {MOST_EVENTS:,}, not {max_events!r}"
        )
    if not is_number(max_seconds) or not 0 <= max_seconds <= 3600:
        raise ConfigurationError(f"max_seconds must be from 0 to 3,600, not {max_seconds!r}")
