"""Marks on rows of the outbox: sent, failed, held, attempted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, or_, select, update

from melange.errors import MelangeError
from melange.outbox.pending import PendingMessage, key_is_stopped
from melange.outbox.tables import IS_PENDING, MessageState, OutboxMessage

logger = logging.getLogger(__name__)

MAX_ERROR_CHARACTERS = 1_000


class SentMessage(NamedTuple):
    """A message that the broker has accepted."""

    id: int
    message_id: str


_MARK_SENT = (
    update(OutboxMessage)
    .where(
        OutboxMessage.id.in_(bindparam("ids", expanding=True)),
        OutboxMessage.message_id.in_(bindparam("message_ids", expanding=True)),
    )
    .values(state=MessageState.SENT, done_at=bindparam("now"))
    .execution_options(synchronize_session=False)
)

_FIRST_PENDING = (
    select(OutboxMessage.id).where(IS_PENDING).order_by(OutboxMessage.id).with_for_update(skip_locked=True)
)
_COLUMNS_OF_MARKS = (
    OutboxMessage.state,
    OutboxMessage.attempts,
    OutboxMessage.error,
    OutboxMessage.done_at,
)


def prove_writable(connection: Connection, limit: int, now: datetime) -> None:
    """Try the marks of a batch, and commit without a change: messages that cannot be marked must not be published.

    Raises:
        SQLAlchemyError: the database is read-only, a standby server or full, or permissions are missing.
    """
    rehearsal = _update_first(limit).values(state=MessageState.SENT, done_at=now, error="rehearsal")
    connection.execute(rehearsal)
    connection.rollback()
    connection.execute(_update_first(1).values({column: column for column in _COLUMNS_OF_MARKS}))
    commit(connection)


def _update_first(limit: int) -> Any:
    first = _FIRST_PENDING.limit(limit).scalar_subquery()
    return (
        update(OutboxMessage).where(OutboxMessage.id.in_(first)).execution_options(synchronize_session=False)
    )


def mark_sent(connection: Connection, sent: Sequence[SentMessage], now: datetime, *conditions: Any) -> None:
    """Mark messages that were published."""
    ids, message_ids = zip(*sent, strict=True)
    connection.execute(
        _MARK_SENT.where(*conditions) if conditions else _MARK_SENT,
        {"ids": ids, "message_ids": message_ids, "now": now},
    )


def count_attempts(connection: Connection, messages: Sequence[PendingMessage]) -> None:
    """Count an attempt for each message that was not accepted while others were."""
    attempts = func.coalesce(OutboxMessage.attempts, 0) + 1
    connection.execute(_update(messages).values(attempts=attempts))


def mark_failed(connection: Connection, message: PendingMessage, error: MelangeError) -> None:
    """Mark a message that stops its key, and log it, unless it is not pending any more."""
    reason = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARACTERS]
    storable = reason.replace("\0", "").encode(errors="replace").decode()
    failing = _update([message]).where(IS_PENDING).values(state=MessageState.FAILED, error=storable)
    if connection.execute(failing).rowcount:  # 0 if it was skipped meanwhile
        _log_failed(message, reason)


def mark_held(connection: Connection, messages: Sequence[PendingMessage]) -> None:
    """Mark messages of a key that a failed one stops. Check it again, because an operator may have decided meanwhile."""
    connection.execute(_update(messages).where(IS_PENDING, key_is_stopped()).values(state=MessageState.HELD))


def commit(connection: Connection) -> None:
    """Commit, or roll back if that fails."""
    try:
        connection.commit()
    except BaseException:
        # Otherwise SQLAlchemy returns the connection to the pool with its transaction: SQLite keeps what it could
        # not commit, and locks all others out.
        connection.rollback()
        raise


def _update(messages: Sequence[PendingMessage]) -> Any:
    return update(OutboxMessage).where(_rows_of(messages)).execution_options(synchronize_session=False)


def _rows_of(messages: Sequence[PendingMessage]) -> ColumnElement[bool]:
    named = [message for message in messages if message.message_id is not None]
    nameless = [message.id for message in messages if message.message_id is None]
    by_both = and_(
        OutboxMessage.id.in_([message.id for message in named]),
        OutboxMessage.message_id.in_([message.message_id for message in named]),
    )
    return or_(by_both, OutboxMessage.id.in_(nameless)) if nameless else by_both


def _log_failed(message: PendingMessage, reason: str) -> None:
    name = ascii(message.message_id).strip("'") if message.message_id else str(message.id)
    logger.error(
        "message %s (row %d) for topic %s was refused (%s) and stops its key; see `melange outbox failed`, then "
        "`melange outbox retry %s` or `melange outbox skip %s`",
        name,
        message.id,
        ascii(message.topic),
        ascii(reason),
        name,
        name,
        extra={"message_id": message.message_id, "topic_name": message.topic, "outbox_id": message.id},
    )
