"""A poll on a thread, for a task that awaits it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from melange.asynchronous import in_thread, running_loop

Result = TypeVar("Result")


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
