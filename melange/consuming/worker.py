"""The worker: consumes from several queues at once, until it is told to stop."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import nullcontext
from typing import Protocol

from melange.consuming.consumed_queue import ConsumedQueue
from melange.consuming.coroutines import EventLoopThread
from melange.consuming.health import WorkerHealth, health_of
from melange.consuming.pool import Pool
from melange.consuming.queue_runner import QueueRunner, Work
from melange.consuming.slots import Slots
from melange.errors import ConfigurationError
from melange.signals import calling_on_signal

logger = logging.getLogger(__name__)

SHORTEST_FINISH_SECONDS = 5
"""How much of the grace is left, at least, when the last poll has ended."""


class HasConsumedQueue(Protocol):
    """An ``ExchangeMessageConsumer``, as far as a worker knows it."""

    @property
    def consumed_queue(self) -> ConsumedQueue:
        """The queue to work on."""
        ...


class Worker:
    """Polls the queues of its consumers and runs their listeners, several at a time.

    What is in hand is kept from others until it is settled, however long a listener takes. The queues
    share the ``concurrency`` fairly, and no more is received than can be worked on. On FIFO queues
    each message group is worked on one message at a time, in order, and groups beside each other.

    ``run`` blocks until SIGTERM, SIGINT or ``stop``; ``start`` works in the background. Stopping: nothing
    new is received, what has not begun is given back at once, listeners at work have ``grace_seconds`` to
    finish. A worker runs once. All its threads are daemons. Thread-safe.
    """

    def __init__(
        self,
        *consumers: HasConsumedQueue,
        concurrency: int = 10,
        grace_seconds: float = 25.0,
        handle_signals: bool = True,
        give_up_seconds: float = 300.0,
    ) -> None:
        """Get ready to work; nothing is received yet.

        Args:
            consumers: at least one, each on a queue of its own, with their listeners subscribed.
            concurrency: how many deliveries are received and worked on at once, at most, all queues together: at
                least one for each queue. What waits in hand for a retry, to keep its order, does not count. Every one takes a thread while it is worked on, asynchronous ones too.
            grace_seconds: how long listeners may go on after the stop. Polls never wait longer than this less
                5 seconds, so that the open one ends in time; with a grace of up to 6 seconds they wait for one.
            handle_signals: stop on SIGTERM and SIGINT in ``run``, if that is called in the main thread.
            give_up_seconds: how long to try on when a queue is missing or access is denied, before the worker
                stops with exit code 1.

        Raises:
            ConfigurationError: no consumer, two for one queue, or a number out of bounds.
        """
        _check(consumers, concurrency, grace_seconds)
        self._concurrency = concurrency
        self._grace_seconds = grace_seconds
        self._handle_signals = handle_signals
        self._slots = Slots(concurrency, len(consumers))
        self._pool = Pool(concurrency, "melange-work")
        self._event_loop = EventLoopThread()
        self._runners = [
            QueueRunner(
                consumer.consumed_queue,
                number,
                slots=self._slots,
                pool=self._pool,
                shares_slots=len(consumers) > 1,
                longest_wait_seconds=_longest_wait(grace_seconds),
                give_up_seconds=give_up_seconds,
                give_up=self._give_up,
            )
            for number, consumer in enumerate(consumers)
        ]
        self._lifecycle = threading.Lock()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._gave_up = False
        self._exit_code = 0
        self._supervisor = threading.Thread(target=self._supervise, name="melange-worker", daemon=True)

    def run(self) -> int:
        """Work until told to stop; return the exit code for the process.

        0: stopped cleanly. 1: work was left behind, or the worker gave up. In the main thread a second signal
        ends the process at once.

        Raises:
            ConfigurationError: a consumer has no listener, or the worker was started before.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        handles = self._handle_signals and in_main_thread
        with calling_on_signal(self._stopping.set) if handles else nullcontext():
            self.start()
            self._ended.wait()  # unlike a join, certain to let signal handlers run on every Python
        return self._exit_code

    def start(self) -> None:
        """Work in the background, until ``stop``; returns at once.

        Raises:
            ConfigurationError: a consumer has no listener, or the worker was started before.
        """
        with self._lifecycle:
            if self.has_started:
                raise ConfigurationError("a worker runs once: make a new one")
            for runner in self._runners:
                runner.consumed.subscriptions.require_some(runner.consumed.queue.name)
                runner.consumed.use_event_loop(self._event_loop.run)
            logger.info(
                "working on %s; concurrency %d, grace %g s",
                ", ".join(map(_described, self._runners)),
                self._concurrency,
                self._grace_seconds,
            )
            self._supervisor.start()

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Stop, and wait for the end; return whether the worker has ended with nothing left behind.

        Blocks for the grace period at most, or ``timeout_seconds``. Safe to call twice, before ``start``, and
        from a listener, where it only asks and returns False.
        """
        self._stopping.set()
        with self._lifecycle:
            if not self.has_started:
                return True
        this_thread = threading.current_thread()
        if this_thread in self._pool or this_thread in self._event_loop:
            return False
        return self._ended.wait(timeout_seconds) and self._exit_code == 0

    @property
    def has_started(self) -> bool:
        """Whether ``run`` or ``start`` was called."""
        return self._supervisor.ident is not None

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop, or has given up."""
        return self._stopping.is_set()

    @property
    def has_ended(self) -> bool:
        """Whether it has worked and does not any more."""
        return self._ended.is_set()

    def health(self) -> WorkerHealth:
        """Return whether the worker does its work, for a readiness probe."""
        return health_of(self._runners, running=self.has_started and not self._stopping.is_set())

    def _give_up(self) -> None:
        self._gave_up = True
        self._stopping.set()

    def _supervise(self) -> None:
        finished = False
        try:
            for runner in self._runners:
                runner.start()
            self._stopping.wait()
            finished = self._wind_down(time.monotonic() + self._grace_seconds)
        except Exception:
            logger.exception("the worker broke off")
        finally:  # whatever happened: who waits for the end must not wait for ever
            self._exit_code = 0 if finished and not self._gave_up else 1
            self._ended.set()

    def _wind_down(self, deadline: float) -> bool:
        """Give back what has not begun, let finish what has; return whether nothing is left behind."""
        logger.info("stopping: listeners at work have %g s to finish", self._grace_seconds)
        for runner in self._runners:
            runner.stop_polling()
        self._slots.close()
        dropped = [task for task in self._pool.close() if isinstance(task, Work)]
        # On threads of their own: a broker that does not answer must not stretch the grace.
        releasing = [
            threading.Thread(target=runner.release_waiting, args=(dropped,), daemon=True)
            for runner in self._runners
        ]
        for thread in releasing:
            thread.start()
        finished = self._pool.join(deadline)
        for thread in releasing:
            thread.join(max(0.0, deadline - time.monotonic()))
            finished &= not thread.is_alive()
        for runner in self._runners:
            finished &= runner.finish(deadline)
        self._event_loop.stop()
        return finished


def _longest_wait(grace_seconds: float) -> int:
    """Return how many seconds a poll may wait, so that it ends well within the grace."""
    return max(int(grace_seconds) - SHORTEST_FINISH_SECONDS, min(1, int(grace_seconds / 2)))


def _described(runner: QueueRunner) -> str:
    consumed = runner.consumed
    listeners = ", ".join(consumed.subscriptions.names)
    return f"queue {consumed.queue.name} ({type(consumed.driver).__name__}) for {listeners}"


def _check(consumers: tuple[HasConsumedQueue, ...], concurrency: int, grace_seconds: float) -> None:
    for consumer in consumers:
        if not isinstance(getattr(consumer, "consumed_queue", None), ConsumedQueue):
            raise ConfigurationError(f"a worker takes consumers, not {consumer!r}")
    queues = [
        (id(consumer.consumed_queue.driver), consumer.consumed_queue.queue.address) for consumer in consumers
    ]
    if not queues or len(set(queues)) < len(queues):
        raise ConfigurationError("a worker needs at least one consumer, and each its own queue")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < len(consumers):
        raise ConfigurationError(
            f"concurrency must be a whole number and at least {len(consumers)}, one for each queue, not {concurrency!r}"
        )
    if not 0 < grace_seconds <= 3600:
        raise ConfigurationError(f"grace_seconds must be above 0 and at most 3600, not {grace_seconds!r}")
