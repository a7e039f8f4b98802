"""Deleting the messages that were sent or skipped."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, select

from melange.outbox.tables import OutboxMessage

PURGE_BATCH = 1_000
"""How many messages one transaction deletes: others wait only briefly."""


def purge_some(connection: Connection, now: datetime, older_than_seconds: float) -> int:
    """Delete at most ``PURGE_BATCH`` messages that were sent or skipped before this time; return their number."""
    oldest = (
        select(OutboxMessage.id)
        .where(is_done_before(now, older_than_seconds))
        .order_by(OutboxMessage.done_at)
        .limit(PURGE_BATCH)
        # Rows that another purge has locked are left to it: after waiting they would not exist any more.
        .with_for_update(skip_locked=True)
    )
    ids = connection.scalars(oldest).all()
    if ids:
        connection.execute(delete(OutboxMessage).where(OutboxMessage.id.in_(ids)))
    return len(ids)


def is_done_before(now: datetime, seconds_ago: float) -> ColumnElement[bool]:
    """Return the condition for messages that were sent or skipped before this time."""
    return OutboxMessage.done_at < now - timedelta(seconds=seconds_ago)
