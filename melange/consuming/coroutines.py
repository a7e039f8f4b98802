"""The event loop of a worker's asynchronous listeners."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import Awaitable, Coroutine
from typing import Any

from melange.errors import TimeLimitExceeded

logger = logging.getLogger(__name__)

CANCELLING_SECONDS = 5.0


class EventLoopThread:
    """An event loop on a daemon thread, started at its first use.

    Each delivery waits for its coroutine on a thread of the worker, so that synchronous and asynchronous listeners share
    one path, one limit and one way to be settled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the loop.

        Raises:
            RuntimeError: the system cannot start a thread.
        """
        self._started()

    def run(self, coroutine: Coroutine[Any, Any, object]) -> object:
        """Run the coroutine on the loop and return what it returned; blocks until then."""
        loop = self._started()
        return asyncio.run_coroutine_threadsafe(_contained(coroutine), loop).result()

    def stop(self) -> bool:
        """Cancel the coroutines at work, let them clean up for some seconds, and end the loop; return True if it ended."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return True
        cancelling = asyncio.run_coroutine_threadsafe(_cancel_all(), loop)
        try:
            cancelling.result(CANCELLING_SECONDS)
        except Exception:
            cancelling.cancel()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=1)
        if thread.is_alive():  # a coroutine blocks it
            return False
        loop.close()
        return True

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=loop.run_forever, name="melange-event-loop", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop


async def within(limit_seconds: float, awaitable: Awaitable[object], what: str) -> None:
    """Await it; after the limit cancel it, and give it up if it has not ended some seconds later.

    Raises:
        TimeLimitExceeded: it took longer. What it raises itself is passed on.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait([task], timeout=limit_seconds)
        is_over = not task.done()
        if is_over:
            task.cancel()
            await asyncio.wait([task], timeout=CANCELLING_SECONDS)
    except asyncio.CancelledError:  # the worker stops
        task.cancel()
        raise
    if not task.done():
        logger.error("%s ignores its cancellation and is given up; it is at\n%s", what, _stack_of(task))
    if is_over and (not task.done() or task.cancelled()):
        raise TimeLimitExceeded(what, limit_seconds)
    task.result()


def _stack_of(task: asyncio.Future[object]) -> str:
    text = io.StringIO()
    if isinstance(task, asyncio.Task):
        task.print_stack(file=text)
    return text.getvalue()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _contained(coroutine: Coroutine[Any, Any, object]) -> object:
    """Await the coroutine; an exception that would end the event loop fails only this coroutine."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"an asynchronous listener raised {type(error).__name__}") from error
