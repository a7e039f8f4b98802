"""The loop of a relay in the background: batch after batch, through outages, until it is stopped; and its waits between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any, Protocol

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from melange.backoff import Backoff
from melange.clock import Clock
from melange.errors import DriverClosedError
from melange.outbox.database_errors import explained
from melange.outbox.locks import Locks
from melange.outbox.relay_batch import BatchRelay
from melange.outbox.rows import PURGE_BATCH, purge_some
from melange.outbox.schedule import Schedule
from melange.outbox.tables import CHANNEL

logger = logging.getLogger(__name__)

_PURGE_SECONDS = 60.0


class RelayLoop:
    """Publishes what is pending and what becomes due, and deletes old messages. For one thread; others may read its state.

    ``on_standby`` is True while another relay works on the database.
    """

    def __init__(
        self,
        locks: Locks,
        batches: BatchRelay,
        schedule: Schedule,
        clock: Clock,
        *,
        poll_seconds: float,
        keep_sent_seconds: float | None,
    ) -> None:
        self.on_standby = False
        self._locks = locks
        self._batches = batches
        self._schedule = schedule
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._keep_sent_seconds = keep_sent_seconds
        self._last_round_at: float | None = None
        self._purge_at = clock.monotonic() + _PURGE_SECONDS

    def seconds_since_round(self) -> float | None:
        """Return the time since the last round that went well; None before the first."""
        at = self._last_round_at
        return None if at is None else self._clock.monotonic() - at

    def run(
        self, stopping: StopSignal, is_paused: Callable[[], bool], seconds_to_next_try: Callable[[], float]
    ) -> None:
        """Work until ``stopping`` is set; ``seconds_to_next_try`` says when a paused topic is tried again.

        Raises:
            DriverClosedError: the driver was closed.
        """
        backoff = Backoff(first_seconds=0.5, max_seconds=30.0)
        failures = 0
        with closing(_waker_for(self._locks.engine, self._clock)) as waker:
            while not stopping.is_set():
                try:
                    if not self._is_our_turn(is_paused=is_paused()):
                        self._last_round_at = self._clock.monotonic()
                        stopping.wait(self._poll_seconds, self._clock)
                        continue
                    self._schedule.release_if_due()
                    progress = self._batches.relay()
                    self._purge()
                    failures = 0
                    self._last_round_at = self._clock.monotonic()
                    if not progress.done:
                        seconds = min(seconds_to_next_try(), self._schedule.seconds_to_next_look())
                        waker.wait(stopping, min(self._poll_seconds, seconds))
                        self._schedule.look_soon()
                except DriverClosedError:
                    raise
                except Exception as error:  # after any error, the messages still have to be published
                    failures += 1
                    seconds = backoff(failures)
                    is_ours = not isinstance(error, (SQLAlchemyError, OSError))
                    logger.warning(
                        "relaying failed, trying again in %.1f s: %s",
                        seconds,
                        explained(error),
                        exc_info=is_ours,
                    )
                    stopping.wait(seconds, self._clock)

    def _is_our_turn(self, *, is_paused: bool) -> bool:
        if is_paused:
            self._locks.release()
            return False
        ours = self._locks.acquire()
        if not ours and not self.on_standby:
            logger.info("another relay works on this database: on standby")
        self.on_standby = not ours
        return ours

    def _purge(self) -> None:
        if self._keep_sent_seconds is None or self._clock.monotonic() < self._purge_at:
            return
        try:
            with self._locks.engine.begin() as connection:
                purged = purge_some(connection, self._clock.now(), self._keep_sent_seconds)
        except SQLAlchemyError as error:  # publishing is not affected
            logger.warning("old messages cannot be deleted, trying again later: %s", explained(error))
            purged = 0
        if purged < PURGE_BATCH:  # otherwise there is more to delete, at the pace of sending
            self._purge_at = self._clock.monotonic() + _PURGE_SECONDS


# --- waits -------------------------------------------------------------------------------------


class StopSignal:
    """A flag that asks to stop; it is set once. Thread-safe, and safe in signal handlers."""

    def __init__(self) -> None:
        self._condition = threading.Condition()  # with a lock that a signal handler may take again
        self._is_set = False

    def set(self) -> None:
        """Ask all to stop, and end their waits."""
        with self._condition:
            self._is_set = True
            self._condition.notify_all()

    def is_set(self) -> bool:
        """Return True if a stop was requested."""
        return self._is_set

    def wait(self, seconds: float, clock: Clock) -> None:
        """Return after ``seconds`` of the clock, or as soon as a stop is requested."""
        with self._condition:
            if not self._is_set and seconds > 0:
                clock.wait(self._condition, seconds)


_LONGEST_WAIT_SECONDS = 1.0
"""The longest time in which a wait notices that it should end."""


class _Waker(Protocol):
    """Waits for work."""

    def wait(self, stopping: StopSignal, seconds: float) -> None:
        """Return when there may be work, when a stop is requested, or after ``seconds``."""
        ...

    def close(self) -> None:
        """Release the resources of the waits. Idempotent."""
        ...


def _waker_for(engine: Engine, clock: Clock) -> _Waker:
    """Return a waker that listens for notifications if the database and its driver can, else one that only waits."""
    return NotifiedWaker(engine, clock) if engine.dialect.driver == "psycopg" else _PollingWaker(clock)


class _PollingWaker:
    """Polls after a while."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def wait(self, stopping: StopSignal, seconds: float) -> None:
        stopping.wait(seconds, self._clock)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class NotifiedWaker:
    """Listens to PostgreSQL's notifications, on its own connection, with psycopg."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._listening: Any = None

    def wait(self, stopping: StopSignal, seconds: float) -> None:
        deadline = self._clock.monotonic() + seconds
        try:
            if self._listening is None:
                self._listening = self._listen()
                return  # something may have come before we listened
            while not stopping.is_set() and (left := deadline - self._clock.monotonic()) > 0:
                slice_seconds = min(left, _LONGEST_WAIT_SECONDS)
                if any(True for _ in self._listening.notifies(timeout=slice_seconds, stop_after=1)):
                    return
        except Exception as error:  # errors of psycopg and SQLAlchemy: polling later works as well
            logger.warning("not notified of new messages for now: %s", ascii(str(error)))
            self.close()
            stopping.wait(min(deadline - self._clock.monotonic(), _LONGEST_WAIT_SECONDS), self._clock)

    def close(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()

    def _listen(self) -> Any:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()  # it is ours, and is not in the pool
        try:
            connection.rollback()  # the application's hooks for new connections may have begun a transaction
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            connection.close()
            raise
        return connection
