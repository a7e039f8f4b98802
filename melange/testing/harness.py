"""The harness: an application's messaging in one place, under the control of a test."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Coroutine, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from melange.backoff import JITTER
from melange.consuming.consumer import ExchangeMessageConsumer
from melange.deduplication.base import RunCoroutine
from melange.drivers.registry import DriverManager
from melange.errors import ConfigurationError, MelangeError
from melange.middleware import Middleware
from melange.testing.clock import ManualClock
from melange.testing.faults import Faults
from melange.testing.harness_assertions import HarnessAssertions
from melange.testing.harness_consumer import RunConsumer
from melange.testing.harness_driver import HarnessDriver
from melange.testing.harness_outboxes import Outboxes
from melange.testing.history import History, tree_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

MOST_STEPS = 10_000
"""The number of deliveries after which ``settle`` takes what happens for an infinite loop."""


class Harness(HarnessAssertions):
    """Runs an application's messaging in memory, step by step, and says what happened.

        with Harness() as harness:
            place_order("order-1")
            harness.settle()
            [event] = harness.published(OrderPlaced)

    Inside of the block its driver is the driver in use, also if the application calls ``use_driver``. Afterwards the
    driver from before is in use again. Its middleware is that of the driver from before, until the application chooses
    another. Consumers that are created inside take part, and so do outboxes that are written to. Nothing runs in the
    background: workers and relays that the application starts wait. Use one harness for each test, from the thread of
    the test.

    Attributes:
        driver: the broker, an ``InMemoryDriver``.
        clock: the clock of the broker, which stands still until ``advance``.
        faults: faults on request.
        seed: what the disorder and the jitter of retries follow from.
    """

    def __init__(self, *, seed: int | None = None, duplicates: float = 0, shuffle: bool = False) -> None:
        """Prepare a broker; ``duplicates`` and ``shuffle`` are those of ``InMemoryDriver``.

        Without a ``seed`` a random one is chosen.
        """
        self.seed = random.randrange(2**32) if seed is None else seed  # noqa: S311 - nothing to guess here
        self.clock = ManualClock()
        self.faults = Faults()
        history = History()
        driver = HarnessDriver(
            history,
            self.faults,
            self._observe,
            clock=self.clock,
            duplicates=duplicates,
            shuffle=shuffle,
            seed=self.seed,
        )
        super().__init__(driver, history)
        self._outboxes = Outboxes(self.driver, self._history, self.clock)
        self.driver.observe_with(self._outboxes)
        self._runner: asyncio.Runner | None = None
        self._on_loop: tuple[asyncio.AbstractEventLoop, RunCoroutine] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(self.driver.end)
        JITTER.seed(self.seed)
        self._stack.callback(JITTER.seed)
        self._outboxes.start_watching()
        self._stack.callback(self._outboxes.stop_watching)
        # What an application chose before, perhaps at its import, holds in the test too.
        self.driver.middleware = DriverManager.instance().middleware
        self._stack.enter_context(DriverManager.instance().overriding(self.driver))
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def relay(self, engine: Engine) -> None:
        """Let ``settle`` relay the outbox of this engine.

        Outboxes that are written to, and those of the application's own relays, are found without this.
        """
        self._outboxes.add(engine)

    # --- running -----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Relay outboxes and run listeners until nothing more can happen at this time.

        It returns when all that was committed is relayed, and no queue with listeners has a visible message. What is due
        later, such as a retry, waits for ``advance``. Exceptions of listeners are noted, and their messages are retried
        or dead-lettered as in production. Asynchronous listeners run on the event loop of the application's worker, if one
        was started (``worker.lifespan()``), otherwise in this thread, on an event loop of the harness.

        Raises:
            ConfigurationError: an event loop runs in this thread: ``await harness.settle_async()``.
            MelangeError: more than 10,000 deliveries followed: an infinite loop of events.
        """
        if _running_loop() is not None:
            raise ConfigurationError(
                "settle() was called while an event loop runs: write `await harness.settle_async()`"
            )
        if self._runner is None:
            self._runner = self._stack.enter_context(asyncio.Runner())
        self._settle(self._run_here)

    def _run_here(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        assert self._runner is not None
        return self._runner.run(coroutine, context=contextvars.copy_context())

    async def settle_async(self) -> None:
        """Settle as ``settle`` does, with asynchronous listeners on the running event loop.

        Plain listeners and relays run in another thread meanwhile, as with a worker.
        """
        loop = _running_loop()
        if loop is None:
            raise ConfigurationError(
                "settle_async() needs a running asyncio event loop; trio is not supported"
            )

        if self._on_loop is None or self._on_loop[0] is not loop:
            self._on_loop = loop, _runs_on(loop)
        await asyncio.to_thread(self._settle, self._on_loop[1])

    def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Let time pass, and settle each time that something is due: retries, delays, lost leases.

        Raises: as ``settle``.
        """
        for _ in self._moments(((days * 24 + hours) * 60 + minutes) * 60 + seconds):
            self.settle()

    async def advance_async(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Let time pass as ``advance`` does, and settle with ``settle_async``."""
        for _ in self._moments(((days * 24 + hours) * 60 + minutes) * 60 + seconds):
            await self.settle_async()

    def _moments(self, seconds: float) -> Iterable[None]:
        end = self.clock.monotonic() + seconds
        yield
        while (now := self.clock.monotonic()) < end:
            self.clock.advance(min(self.driver.next_due(), self._outboxes.next_due(), end) - now)
            yield

    def _settle(self, run_coroutine: RunCoroutine) -> None:
        steps = 0
        while True:
            progress = self._outboxes.relay()
            for consumer in tuple(self._consumers):
                while consumer.work(self.driver, run_coroutine):
                    progress += 1
                    steps += 1
                    if steps > MOST_STEPS:
                        raise MelangeError(
                            f"an infinite loop of events: {MOST_STEPS:,} deliveries followed\n\n"
                            f"{tree_of(self._history)}"
                        )
            if not progress:
                return

    def _observe(self, consumer: ExchangeMessageConsumer) -> Middleware:
        runs = RunConsumer(consumer, self._history, self.faults, self.clock)
        self._consumers.append(runs)
        return runs


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _runs_on(loop: asyncio.AbstractEventLoop) -> RunCoroutine:
    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    return run
