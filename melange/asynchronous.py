"""Between asyncio and threads: the running loop, blocking calls that it awaits, coroutines for threads that wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

from melange.errors import ConfigurationError

Result = TypeVar("Result")


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
    future, _ = start_in_thread(call, what)
    return await future


def start_in_thread(call: Callable[[], Result], what: str) -> tuple[asyncio.Future[Result], threading.Thread]:
    """Make a blocking call on a daemon thread of its own, in this context; return the future of its result, and the thread.

    Raises:
        ConfigurationError: no event loop of asyncio runs in this thread.
        RuntimeError: the system cannot start a thread.
    """
    loop = running_loop(what)
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():  # the awaiting task was cancelled
            return
        if isinstance(error, StopIteration):  # a future refuses it, and would never end
            error = RuntimeError(f"{what}: the call raised StopIteration")
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # without an error it is one

    context = copy_context()

    def run() -> None:
        try:
            result = context.run(call)
        except BaseException as error:
            schedule(loop, settle, None, error)
        else:
            schedule(loop, settle, result, None)

    thread = threading.Thread(target=run, name="melange-async", daemon=True)
    thread.start()
    return future, thread


def schedule(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    """Have the loop make the call, from any thread; do nothing if the loop is closed."""
    with suppress(RuntimeError):  # the loop is closed, so nothing waits any more
        loop.call_soon_threadsafe(call, *arguments)


class OnLoop:
    """Runs coroutines on the loop that runs now, for a thread that waits for them, until it is given up."""

    def __init__(self, what: str) -> None:
        """Take the running loop; ``what`` names the caller in errors.

        Raises:
            ConfigurationError: none runs in this thread.
        """
        self._what = what
        self._loop = running_loop(what)
        self._given_up = threading.Event()
        self._running: set[Future[object]] = set()

    async def in_thread(self, call: Callable[[], Result]) -> Result:
        """Return the result of a blocking call, made on a thread of its own."""
        return await in_thread(call, self._what)

    def run(self, coroutine: Coroutine[Any, Any, object]) -> object:
        """Run the coroutine on the loop and return what it returned; blocks until then."""
        if self.is_given_up():  # the loop may be closed by now
            coroutine.close()
            raise CancelledError
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._running.add(running)
        try:
            if self.is_given_up():
                running.cancel()
            return running.result()
        finally:
            self._running.discard(running)

    def is_given_up(self) -> bool:
        """Return True after ``give_up``."""
        return self._given_up.is_set()

    def give_up(self) -> None:
        """Cancel what runs, and what will be run. Call it on the loop."""
        self._given_up.set()
        for running in list(self._running):
            running.cancel()
