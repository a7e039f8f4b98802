"""The pending messages of an outbox, as a relay reads them.

Other programs or people may write rows. A malformed row must stop only its own key, so it is read as a message with a
problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, select
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import aliased

from melange.errors import InvalidMessageError
from melange.messages import JSON_CONTENT_TYPE, NO_HEADERS, Message
from melange.outbox.tables import IS_PENDING, PUBLISHED_AT, OutboxMessage, has_same_key, is_failed


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


def key_is_stopped() -> ColumnElement[bool]:
    """Return the condition that a failed message stops the row's key; a row without a key is never stopped."""
    failed = aliased(OutboxMessage)
    return exists().where(is_failed(failed), has_same_key(failed, OutboxMessage))


_PLACE = (
    OutboxMessage.id,
    OutboxMessage.topic,
    OutboxMessage.key,
    OutboxMessage.lock_key,
    OutboxMessage.attempts,
    key_is_stopped().label("is_stopped"),
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
