"""The polling of one queue of a worker, through outages of the broker and of the deduplication store, until it stops."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from melange.backoff import Backoff
from melange.consuming.concurrency import Changes
from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.threads import Threads
from melange.errors import (
    AccessDeniedError,
    ConfigurationError,
    DeduplicationError,
    DriverClosedError,
    QueueNotFoundError,
)
from melange.messages import Delivery

logger = logging.getLogger(__name__)

MOST_HANGING = 1_000
"""A worker gives up when more runs hang beyond their time limit: each keeps a thread, which only the end of the
process frees. Far above what one bad message leaves behind, because other messages go on meanwhile."""

_MISTAKES = (TypeError, AttributeError, LookupError, NameError)
"""Errors of code, in a driver or a hook, which no network causes."""

_PERMANENT = (AccessDeniedError, ConfigurationError, QueueNotFoundError, *_MISTAKES)
"""Errors that waiting seldom ends: tried for a while longer, in case the cause is repaired."""

_SHORT_POLL_PAUSE_SECONDS = 0.1
"""The pause between empty polls that do not wait, or that a hook or the broker ends at once."""


_THREAD_NAME = "melange-poll-"


def is_polling_thread() -> bool:
    """Return True if the calling thread polls for a worker."""
    return threading.current_thread().name.startswith(_THREAD_NAME)


class Poller:
    """Polls one queue on its own thread, as long as ``allowance`` is above 0, and passes on what it receives.

    ``allowance`` returns the number of deliveries to ask for. ``give_up`` is called when polling has ended by itself.
    """

    def __init__(
        self,
        consumer: ExchangeMessageConsumer,
        threads: Threads,
        changes: Changes,
        *,
        allowance: Callable[[], int],
        accept: Callable[[list[Delivery]], None],
        longest_wait_seconds: int,
        give_up_seconds: float,
        give_up: Callable[[], None],
    ) -> None:
        self.last_poll_at: float | None = None
        self.store_is_available = not consumer.needs_store  # asked before the first poll
        self._store_was_unavailable = False
        self.stopping = threading.Event()
        self._consumer = consumer
        self._queue_name = consumer.queue.name
        self._threads = threads
        self._changes = changes
        self._allowance = allowance
        self._accept = accept
        self._wait_seconds = min(consumer.options.wait_seconds, longest_wait_seconds)
        self._give_up_seconds = give_up_seconds
        self._give_up = give_up
        self._backoff = Backoff(first_seconds=0.5, max_seconds=30.0)
        self._thread = threading.Thread(
            target=self._poll_on, name=f"{_THREAD_NAME}{self._queue_name}", daemon=True
        )

    def start(self) -> None:
        """Start to poll.

        Raises:
            RuntimeError: the system cannot start a thread.
        """
        self._thread.start()

    def stop(self) -> None:
        """Start no further poll."""
        self.stopping.set()
        self._changes.notify()

    @property
    def is_polling(self) -> bool:
        """True until the last poll has ended."""
        return self._thread.is_alive()

    def join(self, deadline: float) -> None:
        """Wait until the last poll has ended, ``deadline`` (monotonic) at the latest."""
        while self._thread.is_alive() and time.monotonic() < deadline:
            # Repeated, because the last poll may start at this moment.
            try:
                self._consumer.driver.end_waits(self._consumer.queue)
            except Exception:  # the poll ends later; what waits must be released all the same
                logger.exception("the open poll of queue %s could not be ended", self._queue_name)
            self._thread.join(min(0.2, max(0.0, deadline - time.monotonic())))

    def _poll_on(self) -> None:
        self._threads.enter()
        failures, denied_since = 0, math.inf
        while not self.stopping.is_set():
            try:
                self._poll()
                failures, denied_since = 0, math.inf
            except Exception as error:
                failures += 1
                # Only what looks permanent counts: an outage before it is not a reason to hurry.
                denied_since = (
                    min(denied_since, time.monotonic()) if isinstance(error, _PERMANENT) else math.inf
                )
                is_over = time.monotonic() - denied_since >= self._give_up_seconds
                if is_over or isinstance(error, DriverClosedError):
                    logger.critical("giving up on queue %s: %s", self._queue_name, error)
                    self._give_up()
                    return
                self._pause(failures, error)
            except BaseException:  # SystemExit from a hook: a worker that does not poll must not look healthy
                logger.critical(
                    "polling queue %s ended, and the worker with it", self._queue_name, exc_info=True
                )
                self._give_up()
                return

    def _poll(self) -> None:
        if not self.store_is_available:
            self._await_store()
        limit = self._allowance()
        if limit <= 0:
            self._changes.wait_for(lambda: self.stopping.is_set() or self._allowance() > 0, 1.0)
            return
        time_limits = self._consumer.time_limits
        if self._consumer.processor.failures.timed_out_count and time_limits.hanging > MOST_HANGING:
            self._give_up_hanging(time_limits.hanging)
            return
        clock = self._consumer.driver.clock
        started = clock.monotonic()
        received = self._consumer.receive(limit, self._wait_seconds)
        self.last_poll_at = clock.monotonic()
        if received:
            self._accept(received)
        elif self.last_poll_at - started < _SHORT_POLL_PAUSE_SECONDS:
            self.stopping.wait(_SHORT_POLL_PAUSE_SECONDS)

    def _await_store(self) -> None:
        """Wait for the deduplication store: polls before that would only raise receive counts."""
        is_start = self.last_poll_at is None and not self._store_was_unavailable
        self._store_was_unavailable = True
        self._consumer.check_store()
        self._store_was_unavailable, self.store_is_available = False, True
        if is_start:
            logger.debug("the deduplication store of queue %s is available", self._queue_name)
        else:
            logger.info("the deduplication store of queue %s is available again", self._queue_name)

    def _give_up_hanging(self, hanging: int) -> None:
        """End the worker: only the end of the process frees the threads of listeners that hang."""
        if self.stopping.is_set():
            return
        logger.critical(
            "%d runs of queue %s hang beyond their time limit: the worker ends, because threads cannot be stopped",
            hanging,
            self._queue_name,
        )
        self._give_up()
        self.stopping.set()

    def _pause(self, failures: int, error: Exception) -> None:
        # The return of a store should be noticed within seconds.
        pause_seconds = min(self._backoff(failures), 2.0 if isinstance(error, DeduplicationError) else 30.0)
        logger.warning(
            "polling queue %s failed, trying again in %.1f s: %s: %s",
            self._queue_name,
            pause_seconds,
            type(error).__name__,
            error,
            exc_info=error if isinstance(error, _MISTAKES) else None,
            extra={"queue_name": self._queue_name},
        )
        self.stopping.wait(pause_seconds)
