"""Between asyncio and threads: the running loop, blocking calls that it awaits, calls from other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

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

    threading.Thread(target=run, name="melange-async", daemon=True).start()
    return await future


def schedule(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    """Have the loop make the call, from any thread; do nothing if the loop is closed."""
    with suppress(RuntimeError):  # the loop is closed, so nothing waits any more
        loop.call_soon_threadsafe(call, *arguments)
