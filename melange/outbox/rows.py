"""The rows of the outbox as a relay uses them: pending ones read, then marked as sent, failed or held, and old ones deleted.

Which of the pending rows a relay reads next is decided by its locks: see ``Locks.choose``. Other programs or people may
write rows. A malformed row must stop only its own key, so it is read as a message with a problem.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, func, or_, select, update
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import aliased

from melange.errors import InvalidMessageError, MelangeError
from melange.messages import JSON_CONTENT_TYPE, NO_HEADERS, Message
from melange.outbox.tables import (
    IS_PENDING,
    PUBLISHED_AT,
    MessageState,
    OutboxMessage,
    has_same_key,
    is_failed,
)

logger = logging.getLogger(__name__)

# --- pending messages --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PendingMessage:
    """A row of the outbox.

    ``message`` is the message to publish, or the reason why it cannot be read. The other values are those of the row,
    or None if they cannot be read. ``is_stopped`` is True if a failed message of the same key comes before it.
    """

    id: int
    topic: str | None
    key: str | None
    lock_key: int | None
    message_id: str | None
    attempts: int
    is_stopped: bool
    message: Message | InvalidMessageError


def _key_is_stopped() -> ColumnElement[bool]:
    """Return the condition that a failed message stops the row's key; a row without a key is never stopped."""
    failed = aliased(OutboxMessage)
    return exists().where(is_failed(failed), has_same_key(failed, OutboxMessage))


_PLACE = (
    OutboxMessage.id,
    OutboxMessage.topic,
    OutboxMessage.key,
    OutboxMessage.lock_key,
    OutboxMessage.attempts,
    _key_is_stopped().label("is_stopped"),
)
_CONTENT = (
    OutboxMessage.event_type_name,
    OutboxMessage.body,
    OutboxMessage.headers,
    PUBLISHED_AT,
    OutboxMessage.message_group_id,
    OutboxMessage.message_deduplication_id,
)

# Built once: building it for each batch took an eighth of the relay's time.
# One statement sees one moment: a decision about a failed message also releases its followers, and
# a later message must not look free while the followers are not.
_IN_ORDER = select(*_PLACE, OutboxMessage.message_id, *_CONTENT).where(IS_PENDING).order_by(OutboxMessage.id)
_IDS_IN_ORDER = select(OutboxMessage.id).where(IS_PENDING).order_by(OutboxMessage.id)
_WHAT_CAN_BE_READ = (
    _IN_ORDER,
    select(*_PLACE, OutboxMessage.message_id).where(IS_PENDING),
    select(*_PLACE).where(IS_PENDING),
)


def read_pending(connection: Connection, chosen: ColumnElement[bool], limit: int) -> list[PendingMessage]:
    """Return at most ``limit`` of the chosen messages that are pending, the oldest first."""
    try:
        rows = connection.execute(_IN_ORDER.where(chosen).limit(limit)).all()
    except Exception as error:
        if not _is_about_a_value(error):
            raise
    else:
        return [_pending(row) for row in rows]
    ids = connection.scalars(_IDS_IN_ORDER.where(chosen).limit(limit)).all()
    messages = (_read_one(connection, row_id) for row_id in ids)
    return [message for message in messages if message is not None]


def _read_one(connection: Connection, row_id: int) -> PendingMessage | None:
    """Read one row as far as possible; None if it is not pending any more."""
    problem: InvalidMessageError | None = None
    for query in _WHAT_CAN_BE_READ:
        try:
            row = connection.execute(query.where(OutboxMessage.id == row_id)).first()
        except Exception as error:
            if not _is_about_a_value(error):
                raise
            problem = InvalidMessageError(f"its row cannot be read: {type(error).__name__}")
        else:
            return None if row is None else _pending(row, problem)
    assert problem is not None
    return PendingMessage(row_id, None, None, None, None, 0, is_stopped=False, message=problem)


def _is_about_a_value(error: Exception) -> bool:
    """Return True if a value, and not the database, is the problem."""
    if not isinstance(error, DBAPIError):
        return not isinstance(error, (SQLAlchemyError, OSError))
    # Raised by the database's driver itself: psycopg for times like infinity, sqlite3 for text that is not UTF-8.
    from_database = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorcode", None)
    is_of_sqlite = type(error.orig).__module__.startswith("sqlite3")
    return from_database is None and isinstance(error, OperationalError if is_of_sqlite else DataError)


def _pending(row: Any, problem: InvalidMessageError | None = None) -> PendingMessage:
    return PendingMessage(
        row.id,
        _text(row.topic),
        _text(row.key),
        row.lock_key if isinstance(row.lock_key, int) else None,
        _text(getattr(row, "message_id", None)),
        row.attempts if isinstance(row.attempts, int) else 0,
        bool(row.is_stopped),
        problem or _message(row),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _message(row: Any) -> Message | InvalidMessageError:
    for column in ("topic", "message_id", "event_type_name", "body"):
        if not isinstance(getattr(row, column), str):
            return _malformed(column, "text", getattr(row, column))
    for column in ("key", "message_group_id", "message_deduplication_id"):
        if not isinstance(getattr(row, column), str | None):
            return _malformed(column, "text or NULL", getattr(row, column))
    if not isinstance(row.lock_key, int):
        return _malformed("lock_key", "a number", row.lock_key)
    if not isinstance(row.published_at, datetime):
        return _malformed("published_at", "a time", row.published_at)
    headers = row.headers
    if headers is not None and not _are_headers(headers):
        return _malformed("headers", "a JSON object of texts, or NULL", headers)
    return Message(
        row.message_id,
        row.body,
        row.event_type_name,
        MappingProxyType(headers) if headers else NO_HEADERS,
        row.published_at,
        JSON_CONTENT_TYPE,
        row.message_group_id,
        row.message_deduplication_id,
    )


def _are_headers(headers: object) -> bool:
    return isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values())


def _malformed(column: str, wanted: str, value: object) -> InvalidMessageError:
    found = "NULL" if value is None else f"a value of type {type(value).__name__}"
    return InvalidMessageError(f"its row is malformed: {column} must be {wanted}, not {found}")


# --- marks -------------------------------------------------------------------------------------

_MAX_ERROR_CHARACTERS = 1_000


class AcceptedMessage(NamedTuple):
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


def mark_sent(
    connection: Connection, sent: Sequence[AcceptedMessage], now: datetime, *conditions: Any
) -> None:
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
    reason = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]
    storable = reason.replace("\0", "").encode(errors="replace").decode()
    failing = _update([message]).where(IS_PENDING).values(state=MessageState.FAILED, error=storable)
    if connection.execute(failing).rowcount:  # 0 if it was skipped meanwhile
        _log_failed(message, reason)


def mark_held(connection: Connection, messages: Sequence[PendingMessage]) -> None:
    """Mark messages of a key that a failed one stops. Check it again, because an operator may have decided meanwhile."""
    connection.execute(_update(messages).where(IS_PENDING, _key_is_stopped()).values(state=MessageState.HELD))


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


# --- old messages ------------------------------------------------------------------------------

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
