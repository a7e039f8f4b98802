"""The worker: consumes from several queues at once, until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

from melange.asynchronous import running_loop
from melange.clock import Clock
from melange.consuming.async_listeners import LoopTasks
from melange.consuming.concurrency import Changes, Places, parts_of
from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.event_loop import EventLoop
from melange.consuming.health import WorkerHealth, health_of
from melange.consuming.ordering import RetryTimers
from melange.consuming.poison_messages import Isolation, Suspects
from melange.consuming.queue_worker import QueueWorker, SharedParts
from melange.consuming.threads import Threads
from melange.errors import ConfigurationError, is_number, is_whole_number
from melange.lifecycle import Lifecycle

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 120_000
"""SQS has no more messages of a queue in flight."""

SHORTEST_FINISH_SECONDS = 5
"""The least part of the grace period that is left when the last poll has ended."""


class Worker(Lifecycle):
    """Polls the queues of its consumers and runs their listeners, several at a time.

    Leases are renewed until a message is settled, so a listener may take any time. The queues share ``concurrency``
    threads. For each queue at most ``2 * concurrency`` messages are in flight (``concurrency + 90`` if that is more):
    received and not yet settled, including waiting retries and running acknowledgements. On FIFO queues the messages of
    a group run one at a time, in order, and groups run in parallel.

    ``run`` blocks until SIGTERM, SIGINT or ``stop``; ``start`` works in the background. Graceful shutdown: nothing new is
    received, what has not begun is released, listeners at work have ``grace_seconds`` to finish; asynchronous ones are
    then cancelled. A worker runs once. All its threads are daemons. Thread-safe.
    """

    def __init__(
        self,
        *consumers: ExchangeMessageConsumer,
        concurrency: int = 10,
        grace_seconds: float = 25.0,
        handle_signals: bool = True,
        give_up_seconds: float = 300.0,
        weights: Mapping[str, int] | None = None,
    ) -> None:
        """Prepare the worker; receive nothing yet.

        Args:
            consumers: at least one, each with its own queue, with subscribed listeners.
            concurrency: the limit of deliveries that are processed at once, for all queues together; at least one for
                each queue. Coroutines need no threads, so a thousand at once are possible.
            grace_seconds: how long listeners may continue after the stop. Polls wait at most this less 5 seconds, so that
                the open one ends in time; with a grace period of up to 6 seconds they wait for one.
            handle_signals: stop on SIGTERM and SIGINT in ``run``, if that is called in the main thread.
            give_up_seconds: how long to retry if a queue is missing, access is denied, or a hook or driver has a mistake
                such as a ``TypeError``, before the worker stops with exit code 1.
            weights: how the threads are shared, by the name of the queue, 1 for a queue without one. By default each queue
                may take all threads but one for each other.

        Raises:
            ConfigurationError: no consumer, two for one queue, or a number out of bounds.
        """
        _check(consumers, concurrency, grace_seconds, give_up_seconds)
        self._stopping = threading.Event()
        super().__init__(self._stopping.set, handle_signals=handle_signals)
        self._grace_seconds = grace_seconds
        self._shared = self._new_parts(concurrency, consumers[0].driver.clock)
        names = [consumer.queue.name for consumer in consumers]
        self._queue_workers = [
            QueueWorker(
                consumer,
                self._shared,
                part,
                longest_wait_seconds=_longest_wait(grace_seconds),
                give_up_seconds=give_up_seconds,
                give_up=self._give_up,
            )
            for consumer, part in zip(consumers, parts_of(names, concurrency, weights), strict=True)
        ]
        self._lifecycle = threading.Lock()
        self._gave_up = False
        self._supervisor = threading.Thread(target=self._supervise, name="melange-worker", daemon=True)

    @property
    def consumers(self) -> tuple[ExchangeMessageConsumer, ...]:
        """The consumers it works for, in the order given."""
        return tuple(one.consumer for one in self._queue_workers)

    async def run_async(self) -> int:
        """Work as ``run`` does, inside of a running event loop of asyncio; return the exit code.

        Asynchronous listeners run on that loop, others on the worker's threads. Cancelling stops the worker: it goes on with
        its graceful shutdown, which this does not wait for.

        Raises:
            ConfigurationError: as ``run``, or no event loop of asyncio runs here.
        """
        with self._stopping_on_signals():
            async with self.lifespan():
                # Awake twice a second: the system may give a signal to another thread, and Python handles it in this one.
                while not self._ended.is_set():
                    await asyncio.sleep(0.05 if self._stopping.is_set() else 0.5)
        return self._exit_code

    @asynccontextmanager
    async def lifespan(self, _application: object = None) -> AsyncIterator[None]:
        self._shared.event_loop.borrow(running_loop("a worker"))
        async with super().lifespan():
            yield

    def start(self) -> None:
        """Work in the background until ``stop``. Returns at once.

        Raises:
            ConfigurationError: a consumer has no listener, or the worker was started before.
        """
        with self._lifecycle:
            if self.has_started:
                raise ConfigurationError("a worker runs once: make a new one")
            for one in self._queue_workers:
                one.consumer.require_listeners()
                one.consumer.use_event_loop(self._shared.event_loop.run)
            if not getattr(sys, "_is_gil_enabled", lambda: True)():
                logger.warning(
                    "this Python runs without its global interpreter lock, where melange is not tested: see "
                    "'Free-threaded Python' in docs/worker.md"
                )
            logger.info(
                "working on %s; concurrency %d, grace period %g s",
                ", ".join(map(_described, self._queue_workers)),
                self._shared.places.size,
                self._grace_seconds,
            )
            for hook in dict.fromkeys(
                hook for one in self._queue_workers for hook in one.consumer.middleware
            ):
                hook.worker_started(self)
            self._supervisor.start()

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Stop, and wait for the end; return True if the worker has ended with nothing left behind.

        Blocks at most for the grace period, or ``timeout_seconds``. Safe to call twice, before ``start``, and from a
        listener, a hook or a coroutine on the worker's event loop, where it returns False at once.
        """
        self._stopping.set()
        with self._lifecycle:
            if not self.has_started:
                return True
        if self._shared.threads.are_calling or self._shared.event_loop.is_calling:
            return False
        return self._ended.wait(timeout_seconds) and self._exit_code == 0

    def pause(self) -> None:
        """Receive nothing until ``resume``; what is in flight continues, and the worker stays ready. Idempotent."""
        for consumer in self.consumers:
            consumer.pause()

    def resume(self) -> None:
        """Receive again. Idempotent."""
        for consumer in self.consumers:
            consumer.resume()

    @property
    def has_started(self) -> bool:
        """True if ``run`` or ``start`` was called."""
        return self._supervisor.ident is not None

    @property
    def is_stopping(self) -> bool:
        """True if it was stopped, or has given up."""
        return self._stopping.is_set()

    @property
    def has_ended(self) -> bool:
        """True if it has worked and has ended."""
        return self._ended.is_set()

    def health(self) -> WorkerHealth:
        """Return the state of the worker, for probes and metrics; ``ready`` is what a readiness probe answers."""
        running = self.has_started and not self._stopping.is_set()
        return health_of(self._queue_workers, self._shared.threads, running=running)

    def _new_parts(self, concurrency: int, clock: Clock) -> SharedParts:
        places, changes, event_loop, suspects = Places(concurrency), Changes(), EventLoop(), Suspects()
        threads = Threads(places, changes)
        return SharedParts(
            places,
            threads,
            changes,
            RetryTimers(clock),
            event_loop,
            LoopTasks(places, threads, event_loop),
            suspects,
            Isolation(
                places,
                threads,
                changes,
                suspects,
                lambda: all(one.is_settled for one in self._queue_workers),
            ),
        )

    def _give_up(self) -> None:
        self._gave_up = True
        self._stopping.set()

    def _supervise(self) -> None:
        finished = False
        try:
            try:
                self._start_threads()
            except RuntimeError:  # nothing should be received that could not begin
                logger.critical("the worker cannot start its threads", exc_info=True)
                self._give_up()
            self._stopping.wait()
            finished = self._shut_down(time.monotonic() + self._grace_seconds)
        except Exception:
            logger.exception("the worker broke off")
            self._stopping.set()
        finally:  # whatever happened: threads in stop() and run() must not wait forever
            self._exit_code = 0 if finished and not self._gave_up else 1
            self._ended.set()

    def _start_threads(self) -> None:
        self._shared.threads.start()
        if any(one.consumer.subscriptions.need_event_loop for one in self._queue_workers):
            self._shared.event_loop.start()
        for one in self._queue_workers:
            one.start()

    def _shut_down(self, deadline: float) -> bool:
        """Release what has not begun, let finish what has; return True if nothing is left behind."""
        logger.info("stopping: listeners at work have %g s to finish", self._grace_seconds)
        shared = self._shared
        for one in self._queue_workers:
            one.stop()
        not_begun = [task.lease for task in (*shared.places.close(), *shared.isolation.close())]
        shared.threads.close()
        shared.changes.notify()
        retries = shared.timers.close()
        # On threads of their own: a broker that does not answer must not stretch the grace period.
        releasing = [
            _in_background(partial(one.release_waiting, not_begun, retries, deadline))
            for one in self._queue_workers
        ]
        finished = shared.threads.join(deadline)
        for thread in releasing:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
            finished &= not thread.is_alive()
        for (
            one
        ) in self._queue_workers:  # first: after a cancelled listener the next of its message would begin
            one.begin_no_listener()
        finished &= shared.event_loop.cancel()
        if not finished:  # cancelled listeners release their messages
            shared.threads.join(time.monotonic() + 1.0)
        for one in self._queue_workers:
            finished &= one.finish(deadline)
        return shared.event_loop.stop() and finished


def _in_background(call: Callable[[], None]) -> threading.Thread:
    """Return a thread that runs the call, or has run it: here, if the system cannot start another."""
    thread = threading.Thread(target=call, name="melange-releasing", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        call()
    return thread


def _longest_wait(grace_seconds: float) -> int:
    """Return the number of seconds a poll may wait, so that it ends well within the grace period."""
    return max(int(grace_seconds) - SHORTEST_FINISH_SECONDS, min(1, int(grace_seconds / 2)))


def _described(queue_worker: QueueWorker) -> str:
    consumer = queue_worker.consumer
    listeners = ", ".join(subscription.name for subscription in consumer.subscriptions.all)
    return f"queue {consumer.queue.name} ({type(consumer.driver).__name__}) for {listeners}"


def _check(
    consumers: tuple[ExchangeMessageConsumer, ...],
    concurrency: int,
    grace_seconds: float,
    give_up_seconds: float,
) -> None:
    for consumer in consumers:
        if not isinstance(consumer, ExchangeMessageConsumer):
            raise ConfigurationError(f"a worker takes consumers, not {consumer!r}")
    addresses = [consumer.queue.address for consumer in consumers]
    if not addresses or len(set(addresses)) < len(addresses):
        raise ConfigurationError("a worker needs at least one consumer, and each its own queue")
    if not is_whole_number(concurrency) or concurrency < len(consumers):
        raise ConfigurationError(
            f"concurrency must be a whole number and at least {len(consumers)}, one for each queue, not {concurrency!r}"
        )
    if concurrency > MOST_AT_ONCE:
        raise ConfigurationError(f"concurrency must be at most {MOST_AT_ONCE:,}, not {concurrency:,}")
    if not is_number(give_up_seconds) or give_up_seconds < 0:
        raise ConfigurationError(f"give_up_seconds must be 0 or more, not {give_up_seconds!r}")
    if not is_number(grace_seconds) or not 0 < grace_seconds <= 3600:
        raise ConfigurationError(f"grace_seconds must be above 0 and at most 3600, not {grace_seconds!r}")
