"""The loop of a relay in the background: batch after batch, through outages, until it is stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing

from sqlalchemy.exc import SQLAlchemyError

from melange.backoff import Backoff
from melange.clock import Clock
from melange.errors import DriverClosedError
from melange.outbox.database_errors import explained
from melange.outbox.locks import Locks
from melange.outbox.purging import PURGE_BATCH, purge_some
from melange.outbox.relay_batch import BatchRelay
from melange.outbox.schedule import Schedule
from melange.outbox.waking import StopSignal, waker_for

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
        with closing(waker_for(self._locks.engine, self._clock)) as waker:
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
