"""The harness: an application's messaging in one place, under the control of a test."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from melange.backoff import JITTER
from melange.callables import qualified_name
from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.listener import ExchangeListener
from melange.deduplication.base import RunCoroutine
from melange.drivers.registry import DriverManager
from melange.errors import ConfigurationError, DecodeError, MelangeError
from melange.events import EventMessage
from melange.messages import DEAD_LETTER_HEADER, Message
from melange.middleware import Middleware
from melange.testing.broker import HarnessDriver
from melange.testing.clock import ManualClock
from melange.testing.consuming import RunConsumer
from melange.testing.faults import Faults, is_meant
from melange.testing.history import History, Run
from melange.testing.outboxes import Outboxes
from melange.testing.tree import tree_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

EventT = TypeVar("EventT", bound=EventMessage)
Where = Callable[[Any], object]

MOST_STEPS = 10_000
"""The number of deliveries after which ``settle`` takes what happens for an infinite loop."""


class Harness:
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
        self._history = History()
        self._consumers: list[RunConsumer] = []
        self.driver = HarnessDriver(
            self._history,
            self.faults,
            self._observe,
            clock=self.clock,
            duplicates=duplicates,
            shuffle=shuffle,
            seed=self.seed,
        )
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
            due = min(self.driver.next_due(), self._outboxes.next_due())
            # Due times of settled messages may lie in the past.
            self.clock.advance(min(due, end) - now if due > now else end - now)
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

    # --- what happened -----------------------------------------------------------------------------

    @overload
    def published(
        self, event_type: type[EventT], *, where: Callable[[EventT], object] | None = ...
    ) -> list[EventT]: ...
    @overload
    def published(self, event_type: str, *, where: Where | None = ...) -> list[dict[str, Any]]: ...
    def published(self, event_type: Any, *, where: Where | None = None) -> list[Any]:
        """Return the events of this type that the broker accepted, in order; those ``where`` returns True for.

        A class gives its objects, the name of a type gives dicts. An event in an outbox counts when it was relayed.

        Raises:
            AssertionError: there is none; it shows what happened.
        """
        __tracebackhide__ = True
        found = self._published(event_type, where)
        return found or self._fail(f"{_named(event_type)} was not published{_as_wanted(where)}")

    def nothing_published(
        self, event_type: type[EventMessage] | str | None = None, *, where: Where | None = None
    ) -> None:
        """Check that no event, or none of this type, was published.

        Raises:
            AssertionError: there is one; it shows what happened.
        """
        __tracebackhide__ = True
        found = self._published(event_type, where)
        if found:
            what = "nothing" if event_type is None else f"no {_named(event_type)}"
            self._fail(f"{what} should have been published{_as_wanted(where)}, and {len(found)} were")

    @overload
    def handled(
        self, listener_or_event: type[EventT], *, where: Callable[[EventT], object] | None = ...
    ) -> list[EventT]: ...
    @overload
    def handled(
        self,
        listener_or_event: str | ExchangeListener | Callable[..., object],
        *,
        where: Where | None = ...,
    ) -> list[Any]: ...
    def handled(self, listener_or_event: Any, *, where: Where | None = None) -> list[Any]:
        """Return the events that a listener finished, as it received them.

        ``listener_or_event`` is a listener, its class, its name, or the type of its events: a class or a name.

        Raises:
            AssertionError: there is none; it shows what happened.
        """
        __tracebackhide__ = True
        found = self._ran(listener_or_event, where, lambda run: run.has_succeeded)
        return found or self._fail(f"{_named(listener_or_event)} was not handled{_as_wanted(where)}")

    @overload
    def failed(
        self, listener_or_event: type[EventT], *, where: Callable[[EventT], object] | None = ...
    ) -> list[EventT]: ...
    @overload
    def failed(
        self,
        listener_or_event: str | ExchangeListener | Callable[..., object],
        *,
        where: Where | None = ...,
    ) -> list[Any]: ...
    def failed(self, listener_or_event: Any, *, where: Where | None = None) -> list[Any]:
        """Return the events on which a listener failed, once for each failed run; otherwise as ``handled``."""
        __tracebackhide__ = True
        found = self._ran(listener_or_event, where, lambda run: not run.has_succeeded)
        return found or self._fail(f"{_named(listener_or_event)} did not fail{_as_wanted(where)}")

    def nothing_failed(self) -> None:
        """Check that each run of a listener succeeded, and that nothing was dead-lettered.

        Raises:
            AssertionError: one failed; it shows what happened.
        """
        __tracebackhide__ = True
        failed = sum(not run.has_succeeded for run in self._history.runs)
        if failed or self._dead_letters():
            self._fail(f"{failed} runs of listeners failed, {len(self._dead_letters())} dead letters")

    @overload
    def dead_lettered(
        self, event_type: type[EventT], *, where: Callable[[EventT], object] | None = ...
    ) -> list[EventT]: ...
    @overload
    def dead_lettered(self, event_type: str, *, where: Where | None = ...) -> list[dict[str, Any]]: ...
    def dead_lettered(self, event_type: Any, *, where: Where | None = None) -> list[Any]:
        """Return the events of this type that were moved to a dead-letter queue; otherwise as ``published``."""
        __tracebackhide__ = True
        found = self._events(self._dead_letters(), event_type, where)
        return found or self._fail(f"{_named(event_type)} was not dead-lettered{_as_wanted(where)}")

    def what_happened(self) -> str:
        """Return the history as text: commands, events and listeners as a tree, then what waits."""
        return "\n".join([tree_of(self._history), *self._history.troubles, *self._waiting()])

    def _published(self, event_type: Any, where: Where | None) -> list[Any]:
        messages = [published.message for published in self._history.published]
        return messages if event_type is None else self._events(messages, event_type, where)

    def _events(self, messages: Iterable[Message], event_type: Any, where: Where | None) -> list[Any]:
        is_class = isinstance(event_type, type)
        name = event_type.event_type_name if is_class else event_type
        serializer = self.driver.serializer
        found = []
        for message in messages:
            try:
                type_name, data = serializer.read(message)
                if type_name == name:
                    found.append(serializer.load(name, data, event_type) if is_class else data)
            except DecodeError:  # malformed on purpose
                continue
        return [event for event in found if where is None or where(event)]

    def _ran(self, which: object, where: Where | None, wanted: Callable[[Run], bool]) -> list[Any]:
        return [
            run.call.event
            for run in self._history.runs
            if wanted(run)
            and is_meant(which, run.call.subscription, run.call.event_type_name)
            and (where is None or where(run.call.event))
        ]

    def _dead_letters(self) -> list[Message]:
        noted = [one.message for one in self._history.dead_lettered]
        queues = {consumer.consumer.queue for consumer in self._consumers}
        targets = {queue.dead_letter_queue for queue in queues if queue.dead_letter_queue is not None}
        moved = [
            message
            for target in sorted(targets, key=lambda queue: queue.name)
            for message in self.driver.list_messages(target)
            if DEAD_LETTER_HEADER not in message.headers  # the broker itself moved it
        ]
        return noted + moved

    def _waiting(self) -> list[str]:
        lines = []
        for queue in {
            consumer.consumer.queue.address: consumer.consumer.queue for consumer in self._consumers
        }.values():
            depth = self.driver.measure_queue(queue)
            if depth.visible:
                lines.append(
                    f"queue {queue.name}: {depth.visible} visible, call settle() or subscribe a listener"
                )
            if depth.in_flight or depth.delayed:
                lines.append(
                    f"queue {queue.name}: {depth.in_flight + depth.delayed} due later, call advance()"
                )
        return lines

    def _fail(self, what: str) -> Any:
        __tracebackhide__ = True
        raise AssertionError(f"{what}. What happened:\n\n{self.what_happened()}\n")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _runs_on(loop: asyncio.AbstractEventLoop) -> RunCoroutine:
    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    return run


def _named(which: object) -> str:
    if isinstance(which, str):
        return which
    if isinstance(which, type) and issubclass(which, EventMessage):
        return which.event_type_name
    return qualified_name(which)


def _as_wanted(where: Where | None) -> str:
    return "" if where is None else " as `where` wants it"
