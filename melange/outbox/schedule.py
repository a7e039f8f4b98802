"""Scheduled messages of an outbox: moved to the pending ones when they are due."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Insert, delete, insert, literal, select
from sqlalchemy.exc import SQLAlchemyError

from melange.clock import Clock
from melange.outbox.database_errors import explained
from melange.outbox.locks import Locks
from melange.outbox.tables import DUE_AT_OR_NONE, MessageState, OutboxMessage, OutboxScheduledMessage

logger = logging.getLogger(__name__)

_BATCH = 200
_PAUSE_SECONDS = 60.0
"""After an error: publishing goes on, and the log has one warning a minute."""

_KEPT = ("topic", "key", "lock_key", "message_id", "event_type_name", "body", "headers", "message_group_id", "message_deduplication_id")  # fmt: skip


class Schedule:
    """Makes due messages pending, in the order of their times. Not thread-safe.

    A message moves in one transaction, so it is scheduled or pending, never both. One relay at a time moves messages:
    the ids of the pending ones, which are their order, are then in the order of the due times.
    """

    def __init__(self, locks: Locks, clock: Clock, look_seconds: float) -> None:
        self._locks = locks
        self._clock = clock
        self._look_seconds = look_seconds
        self._look_at = -math.inf
        self._paused_until = -math.inf

    def look_soon(self) -> None:
        """Look at the next ``release_if_due``: a message may have been scheduled that is due before the last look knew."""
        self._look_at = self._paused_until

    def release_if_due(self) -> None:
        """Move due messages, if it is time to look; log an error of the database instead of raising it."""
        if self._clock.monotonic() < self._look_at:
            return
        try:
            next_due_at = self.release()
        except (SQLAlchemyError, OSError) as error:
            logger.warning(
                "scheduled messages cannot be read, trying again in a minute: %s; other messages are published",
                explained(error),
            )
            self._look_at = self._paused_until = self._clock.monotonic() + _PAUSE_SECONDS
            return
        seconds = math.inf if next_due_at is None else (next_due_at - self._clock.now()).total_seconds()
        self._look_at = self._clock.monotonic() + min(self._look_seconds, max(0.0, seconds))

    def seconds_to_next_look(self) -> float:
        """Return the time until ``release_if_due`` looks again."""
        return max(0.0, self._look_at - self._clock.monotonic())

    def release(self) -> datetime | None:
        """Move all due messages; return when the next one is due, None without one or without a time that can be read.

        Raises:
            SQLAlchemyError: the database is unavailable, or the table is missing.
        """
        while True:
            with self._locks.engine.begin() as connection:
                self._locks.wait_for_schedule(connection)
                ids = connection.scalars(
                    select(OutboxScheduledMessage.id)
                    .where(OutboxScheduledMessage.due_at <= self._clock.now())
                    .order_by(OutboxScheduledMessage.due_at, OutboxScheduledMessage.id)
                    .limit(_BATCH)
                    # One that is being cancelled is locked: it is gone, or there at the next look.
                    .with_for_update(skip_locked=True)
                ).all()
                if ids:
                    connection.execute(_moving(ids))
                    connection.execute(
                        delete(OutboxScheduledMessage).where(OutboxScheduledMessage.id.in_(ids))
                    )
                if len(ids) < _BATCH:
                    next_due = select(DUE_AT_OR_NONE).order_by(OutboxScheduledMessage.due_at).limit(1)
                    return connection.scalar(next_due)


def _moving(ids: Sequence[int]) -> Insert:
    columns = [getattr(OutboxScheduledMessage, name) for name in _KEPT]
    due = (
        # The time when it was due is the time of its publication: otherwise it would look late.
        select(*columns, OutboxScheduledMessage.due_at, literal(MessageState.PENDING.value), literal(0))
        .where(OutboxScheduledMessage.id.in_(ids))
        .order_by(OutboxScheduledMessage.due_at, OutboxScheduledMessage.id)
    )
    return insert(OutboxMessage).from_select([*_KEPT, "published_at", "state", "attempts"], due)
