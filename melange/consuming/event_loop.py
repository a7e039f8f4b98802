"""The event loop of a worker's asynchronous listeners, and how coroutines run on it: limited in time, and contained."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
import time
from asyncio import Task
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextvars import Context
from typing import Any, TypeVar

from melange.errors import ConfigurationError, TimeLimitExceeded

logger = logging.getLogger(__name__)

CANCELLING_SECONDS = 5.0
"""How long a cancelled coroutine may clean up."""

Result = TypeVar("Result")


class EventLoop:
    """An event loop on a daemon thread, started at its first use, or a borrowed one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_work: set[Task[Any] | Future[Any]] = set()
        self._calls: deque[Callable[[], object]] = deque()
        self._is_called = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the loop.

        Raises:
            RuntimeError: the system cannot start a thread.
        """
        self._started()

    def borrow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run coroutines on a loop that runs already, and leave it running at the end."""
        with self._lock:
            self._loop = loop

    @property
    def is_calling(self) -> bool:
        """True if the loop runs in this thread, so that to wait here would hold up its coroutines."""
        loop = self._loop
        return loop is not None and asyncio._get_running_loop() is loop

    def run(self, coroutine: Coroutine[Any, Any, object]) -> object:
        """Run the coroutine on the loop and return what it returned; blocks until then.

        Raises:
            ConfigurationError: the loop is that of the application, and does not run.
        """
        loop = self._started()
        if self._thread is None and not loop.is_running():
            coroutine.close()
            raise ConfigurationError(
                "the event loop of the application does not run now, and asynchronous listeners need it: in a test, write "
                "`async def` and `await harness.settle_async()`"
            )
        running = asyncio.run_coroutine_threadsafe(contained(coroutine), loop)
        self._at_work.add(running)
        try:
            return running.result()
        finally:
            self._at_work.discard(running)

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call it on the loop, from any thread; it must not raise. Calls that arrive together wake the loop once.

        Raises:
            RuntimeError: the system cannot start a thread.
        """
        loop = self._loop or self._started()
        self._calls.append(call)
        if not self._is_called:  # two threads may both wake it: the second time it finds nothing
            self._is_called = True
            loop.call_soon_threadsafe(self._make_calls)

    def _make_calls(self) -> None:
        self._is_called = False
        while self._calls:
            self._calls.popleft()()

    def run_task(
        self,
        coroutine: Coroutine[Any, Any, Result],
        context: Context,
        ended: Callable[[Task[Result]], object],
    ) -> None:
        """Run the coroutine in a task, in the context; ``ended`` is called with the task. Call it on the loop."""
        task = asyncio.get_running_loop().create_task(coroutine, context=context)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        task.add_done_callback(ended)

    def cancel(self) -> bool:
        """Cancel the coroutines at work, and let them clean up for some seconds; return True if they have ended.

        Then the loop goes on until ``stop``, for a store that works on it. Otherwise it is left at once.
        """
        with self._lock:
            loop, thread = self._loop, self._thread
        if loop is None:
            return True
        if thread is None:
            return self._cancel_at_work(loop) or self._leave()
        cancelling = asyncio.run_coroutine_threadsafe(_cancel_all(), loop)
        try:
            cancelling.result(CANCELLING_SECONDS)
        except Exception:
            cancelling.cancel()
            return self._leave()
        return True

    def stop(self) -> bool:
        """Cancel the coroutines that are at work by now, and end the loop; return True if they have ended."""
        return self.cancel() and self._leave()

    def _leave(self) -> bool:
        """End the loop, unless it is borrowed; return True if nothing holds it up."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None:
            return True
        if thread is None:
            return not self._at_work
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=1)
        return not thread.is_alive()  # or a coroutine blocks it

    def _cancel_at_work(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Cancel the coroutines on a borrowed loop, and wait for their ends; return True if they have ended."""

        def cancel() -> None:
            for one in list(self._at_work):
                one.cancel()

        try:
            loop.call_soon_threadsafe(cancel)
        except RuntimeError:  # it is closed
            return not self._at_work
        deadline = time.monotonic() + CANCELLING_SECONDS
        while self._at_work and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._at_work

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_run, args=(loop,), name="melange-event-loop", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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


async def how_it_ended(awaitable: Awaitable[object]) -> BaseException | None:
    """Await it; return the exception with which it ended, or None."""
    try:
        await awaitable
    except asyncio.CancelledError:
        # A cancelled run is a failed run: the exception of futures is an ordinary one.
        return CancelledError()
    except (SystemExit, KeyboardInterrupt) as error:
        return _not_for_the_loop(error)
    except GeneratorExit as error:
        if asyncio._get_running_loop() is None:  # the loop was closed before its end
            raise
        return _not_for_the_loop(error)
    except BaseException as error:
        return error
    return None


async def contained(awaitable: Awaitable[Any]) -> Any:
    """Return what it returns; an exception that would end the event loop fails only this run."""
    try:
        return await awaitable
    except (SystemExit, KeyboardInterrupt) as error:
        raise _not_for_the_loop(error) from error


def _not_for_the_loop(error: BaseException) -> RuntimeError:
    return RuntimeError(f"an asynchronous listener raised {type(error).__name__}")
