"""Work that goes on until SIGTERM, SIGINT or ``stop``: in the calling thread, or in the background."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Self

from melange.signals import calling_on_signal, wait_until_set


class Lifecycle(ABC):
    """Works until SIGTERM, SIGINT or ``stop``. Thread-safe.

    A subclass starts its threads in ``start``. At their end it sets ``_exit_code``, and then ``_ended``. ``stop_soon`` asks
    them to stop; it does not block, and a signal handler may call it.
    """

    def __init__(self, stop_soon: Callable[[], None], *, handle_signals: bool) -> None:
        self._stop_soon = stop_soon
        self._handle_signals = handle_signals
        self._ended = threading.Event()
        self._exit_code = 0

    @abstractmethod
    def start(self) -> None:
        """Work in the background until ``stop``. Returns at once.

        Raises:
            ConfigurationError: it was started before, or cannot start.
        """

    @abstractmethod
    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Stop, and wait for the end; return True if it has ended without an error. Safe to call twice."""

    def run(self) -> int:
        """Work until SIGTERM, SIGINT or ``stop``; return the exit code for the process: 0, or 1 after an error.

        A worker returns 1 if work was left behind, or if it gave up; a relay if its driver was closed. Outages are waited
        for. In the main thread a second signal ends the process at once.

        Raises:
            ConfigurationError: as ``start``.
        """
        with self._stopping_on_signals():
            self.start()
            wait_until_set(self._ended)
        return self._exit_code

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Work in the background during a ``with`` block; then stop gracefully.

        Raises:
            ConfigurationError: as ``start``.
        """
        self.start()
        try:
            yield self
        finally:
            self.stop()

    @asynccontextmanager
    async def lifespan(self, _application: object = None) -> AsyncIterator[None]:
        """Work in the background during an ``async with`` block; the event loop goes on while it stops gracefully.

        A worker runs its asynchronous listeners on this event loop. FastAPI, Starlette and Litestar take the method itself
        as ``lifespan=``. Signals are left to the server.

        Raises:
            ConfigurationError: as ``start``, or no event loop of asyncio runs here.
        """
        # It takes half of the time of importing melange, and most of these work without it.
        import asyncio  # noqa: PLC0415

        self.start()
        try:
            yield
        finally:
            self._stop_soon()
            while not self._ended.is_set():
                await asyncio.sleep(0.01)

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        in_main_thread = threading.current_thread() is threading.main_thread()
        with calling_on_signal(self._stop_soon) if self._handle_signals and in_main_thread else nullcontext():
            yield
