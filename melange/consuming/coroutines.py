"""The event loop on which a worker runs asynchronous listeners."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


class EventLoopThread:
    """An event loop on a daemon thread, started when it is first needed.

    Each delivery waits for its coroutine on a thread of the worker's pool, so that synchronous and
    asynchronous listeners share one path, one limit and one way to be settled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, coroutine: Coroutine[Any, Any, object]) -> object:
        """Run the coroutine on the loop and return what it returned; blocks until then."""
        return asyncio.run_coroutine_threadsafe(_contained(coroutine), self._started()).result()

    def stop(self) -> None:
        """End the loop; coroutines still at work are left where they are."""
        with self._lock:
            if self._loop is None or self._thread is None:
                return
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5)
            if not self._thread.is_alive():
                self._loop.close()
            self._loop = self._thread = None

    def __contains__(self, thread: threading.Thread) -> bool:
        return thread is self._thread

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="melange-event-loop", daemon=True
                )
                self._thread.start()
            return self._loop


async def _contained(coroutine: Coroutine[Any, Any, object]) -> object:
    """Await the coroutine; what would end the event loop, and with it all others, fails this one alone."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"an asynchronous listener raised {type(error).__name__}") from error
