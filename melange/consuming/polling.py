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
from melange.consuming.threads import SLOW_CALL_SECONDS, ExtraThreads, Threads
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

_ALONE_SECONDS = 1.0
"""After a failed poll no other is added for this time: it would not help a broker in trouble."""

_THREAD_NAME = "melange-poll-"


def is_polling_thread() -> bool:
    """Return True if the calling thread polls for a worker."""
    return threading.current_thread().name.startswith(_THREAD_NAME)


class Poller:
    """Polls one queue on its own thread, as long as ``allowance`` is above 0, and passes on what it receives.

    While polls come back with ``batch`` deliveries and wait for the network, more polls are open at a time, up to
    ``most_polls``; they wait a second at most. ``allowance`` returns the number of deliveries to ask for, given how many the
    open polls ask for. ``give_up`` is called when polling has ended by itself.
    """

    def __init__(
        self,
        consumer: ExchangeMessageConsumer,
        threads: Threads,
        changes: Changes,
        *,
        allowance: Callable[[int], int],
        accept: Callable[[list[Delivery]], None],
        batch: int,
        most_polls: int,
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
        self._asking = threading.Lock()
        self._asked = 0
        self._alone_until = -math.inf
        self._batch = batch
        self._wait_seconds = min(consumer.options.wait_seconds, longest_wait_seconds)
        self._give_up_seconds = give_up_seconds
        self._give_up = give_up
        self._backoff = Backoff(first_seconds=0.5, max_seconds=30.0)
        name = f"{_THREAD_NAME}{self._queue_name}"
        self._thread = threading.Thread(target=self._poll_on, name=name, daemon=True)
        self._beside = ExtraThreads(self._poll_beside, name, most_polls - 1)

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
        return self._thread.is_alive() or self._beside.are_alive

    def join(self, deadline: float) -> None:
        """Wait until the last poll has ended, ``deadline`` (monotonic) at the latest."""
        while self.is_polling and time.monotonic() < deadline:
            # Repeated, because the last poll may start at this moment.
            try:
                self._consumer.driver.end_waits(self._consumer.queue)
            except Exception:  # the poll ends later; what waits must be released all the same
                logger.exception("the open poll of queue %s could not be ended", self._queue_name)
            until = min(deadline, time.monotonic() + 0.2)
            self._thread.join(max(0.0, until - time.monotonic()))
            self._beside.join(until)

    def _poll_on(self) -> None:
        self._threads.enter()
        failures, denied_since = 0, math.inf
        while not self.stopping.is_set():
            try:
                if not self.store_is_available:
                    self._await_store()
                self._poll(1, self._wait_seconds)
                failures, denied_since = 0, math.inf
                if self._consumer.processor.failures.timed_out_count:
                    self._give_up_if_hanging()
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
            except (
                BaseException
            ) as error:  # SystemExit of a hook: a worker that does not poll must not look healthy
                self._break_off(error)
                return

    def _poll_beside(self) -> None:
        self._threads.enter()
        try:
            while self._poll(self._batch, min(1, self._wait_seconds)):
                pass
        except Exception as error:
            self._warn_of(error, "")  # if the queue's own thread fails too, it decides what follows
        except BaseException as error:
            self._break_off(error)
        self._changes.notify()  # fewer deliveries are asked for

    def _poll(self, least: int, wait_seconds: int) -> bool:
        """Poll once, if ``least`` deliveries may be asked for; return True if a whole batch came, and more polls may."""
        with self._asking:
            limit = self._allowance(self._asked)
            if least <= limit:
                self._asked += limit
        if limit < least:
            if least == 1:
                self._changes.wait_for(
                    lambda: self.stopping.is_set() or self._allowance(self._asked) > 0, 1.0
                )
            return False
        clock = self._consumer.driver.clock
        started = clock.monotonic()
        try:
            received = self._consumer.receive(limit, wait_seconds)
            self.last_poll_at = ended = clock.monotonic()
            if received:
                self._accept(received)
        except Exception:
            self._alone_until = clock.monotonic() + _ALONE_SECONDS
            raise
        finally:
            with self._asking:
                self._asked -= limit
        seconds = ended - started
        if not received and seconds < _SHORT_POLL_PAUSE_SECONDS:
            self.stopping.wait(_SHORT_POLL_PAUSE_SECONDS)
        is_slow_and_full = len(received) >= self._batch and seconds >= SLOW_CALL_SECONDS
        if not is_slow_and_full or self.stopping.is_set() or not self.store_is_available:
            return False
        if self._allowance(self._asked) >= self._batch and ended >= self._alone_until:
            self._beside.add()
        return True

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

    def _give_up_if_hanging(self) -> None:
        """End the worker if too many listeners hang: only the end of the process frees their threads."""
        hanging = self._consumer.time_limits.hanging
        if hanging <= MOST_HANGING or self.stopping.is_set():
            return
        logger.critical(
            "%d runs of queue %s hang beyond their time limit: the worker ends, because threads cannot be stopped",
            hanging,
            self._queue_name,
        )
        self._give_up()
        self.stopping.set()

    def _break_off(self, error: BaseException) -> None:
        logger.critical("polling queue %s ended, and the worker with it", self._queue_name, exc_info=error)
        self._give_up()

    def _pause(self, failures: int, error: Exception) -> None:
        # The return of a store should be noticed within seconds.
        pause_seconds = min(self._backoff(failures), 2.0 if isinstance(error, DeduplicationError) else 30.0)
        self._warn_of(error, f", trying again in {pause_seconds:.1f} s")
        self.stopping.wait(pause_seconds)

    def _warn_of(self, error: Exception, what_follows: str) -> None:
        logger.warning(
            "polling queue %s failed%s: %s: %s",
            self._queue_name,
            what_follows,
            type(error).__name__,
            error,
            exc_info=error if isinstance(error, _MISTAKES) else None,
            extra={"queue_name": self._queue_name},
        )
