"""The tables of outbox and inbox, in SQLAlchemy, and the SQL that creates them.

``metadata`` has both: pass it to Alembic beside your own, ``target_metadata = [Base.metadata, metadata]``,
or call ``metadata.create_all(engine)``.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    and_,
    case,
    column,
    literal_column,
    type_coerce,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.types import TypeEngine

from melange.errors import ConfigurationError, nearest
from melange.messages import Message

metadata = MetaData()

CHANNEL = "melange_outbox"
"""Where transactions notify relays on PostgreSQL."""


class MessageState(StrEnum):
    """The state of a message of the outbox.

    ``FAILED`` was refused permanently, or cannot be read, and waits for an operator's decision. Later messages of its
    key are ``HELD``, and become ``PENDING`` again after that.
    """

    PENDING = "pending"
    FAILED = "failed"
    HELD = "held"
    SENT = "sent"
    SKIPPED = "skipped"


class _UtcDateTime(TypeDecorator[datetime]):
    """Reads aware times, in UTC, also from databases without time zones.

    It is not the type of a column: Alembic would name it in migrations, which must not import melange.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        time: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
        return time.astimezone(UTC)


class _UtcDateTimeOrNone(_UtcDateTime):
    """Reads None for a value that is not a time, which SQLite may have."""

    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        try:
            time = datetime.fromisoformat(value) if isinstance(value, str) else value
            return super().process_result_value(time, dialect)
        except (AttributeError, OverflowError, ValueError):
            return None


class _Base(DeclarativeBase):
    metadata = metadata


class OutboxMessage(_Base):
    """A message that was written in a transaction, and is published after the commit.

    Messages of one ``topic`` and ``key`` leave in the order of ``id``; without a key they have no order.
    ``lock_key`` is a number made of both, which relays lock. ``attempts`` counts how often the message was not
    accepted while others were, and ``error`` has the reason. ``done_at`` is the time when it was sent or skipped.
    Times are in UTC, and naive from SQLite, which has no time zones.
    """

    __tablename__ = "melange_outbox"

    # SQLite counts up by itself only columns of type INTEGER.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    topic: Mapped[str] = mapped_column(String(512))
    key: Mapped[str | None] = mapped_column(String(256))
    lock_key: Mapped[int] = mapped_column(Integer)
    message_id: Mapped[str] = mapped_column(String(128))
    event_type_name: Mapped[str] = mapped_column(String(256))
    body: Mapped[str] = mapped_column(Text)
    headers: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    published_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    message_group_id: Mapped[str | None] = mapped_column(String(128))
    message_deduplication_id: Mapped[str | None] = mapped_column(String(128))
    state: Mapped[str] = mapped_column(
        String(8), default=MessageState.PENDING, server_default=MessageState.PENDING
    )
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    error: Mapped[str | None] = mapped_column(Text)
    done_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    # Each index has only the rows of its query, so that a million sent messages cost nothing.
    __table_args__ = (
        Index(
            "melange_outbox_pending",
            "id",
            sqlite_where=column("state") == "pending",
            postgresql_where=column("state") == "pending",
        ),
        Index(
            "melange_outbox_stopped",
            "lock_key",
            sqlite_where=column("state").in_(["failed", "held"]),
            postgresql_where=column("state").in_(["failed", "held"]),
        ),
        Index(
            "melange_outbox_done",
            "done_at",
            sqlite_where=column("done_at").is_not(None),
            postgresql_where=column("done_at").is_not(None),
        ),
        {"sqlite_autoincrement": True},  # an id is never used for another message
    )


class OutboxScheduledMessage(_Base):
    """A message that was written in a transaction, and is due later: ``due_at``, in UTC.

    When it is due, a relay moves it to the end of ``OutboxMessage``, in the order of ``due_at`` and ``id``. The other
    columns are those of ``OutboxMessage``.
    """

    __tablename__ = "melange_outbox_scheduled"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    topic: Mapped[str] = mapped_column(String(512))
    key: Mapped[str | None] = mapped_column(String(256))
    lock_key: Mapped[int] = mapped_column(Integer)
    message_id: Mapped[str] = mapped_column(String(128))
    event_type_name: Mapped[str] = mapped_column(String(256))
    body: Mapped[str] = mapped_column(Text)
    headers: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    message_group_id: Mapped[str | None] = mapped_column(String(128))
    message_deduplication_id: Mapped[str | None] = mapped_column(String(128))

    __table_args__ = (
        Index("melange_outbox_scheduled_due", "due_at", "id"),
        Index("melange_outbox_scheduled_id", "message_id"),
        {"sqlite_autoincrement": True},
    )


class InboxMark(_Base):
    """A listener has finished a message: written in the transaction that holds what it did.

    ``key_digest`` identifies queue, listener, message id and content; the first three are also stored for people, cut to
    their columns. ``token_digest`` identifies the claim that completed it.
    """

    __tablename__ = "melange_inbox"

    key_digest: Mapped[str] = mapped_column(String(32), primary_key=True)
    queue_address: Mapped[str] = mapped_column(String(512))
    listener_name: Mapped[str] = mapped_column(String(256))
    message_id: Mapped[str] = mapped_column(String(128))
    token_digest: Mapped[str] = mapped_column(String(32))
    done_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    __table_args__ = (Index("melange_inbox_done", "done_at"),)


class InboxAttempts(_Base):
    """The attempts of a listener on a message that it has not finished.

    ``token_digest`` identifies the claim that holds the message, at least until ``leased_until``; NULL if the last one
    was released. The other columns are as in ``InboxMark``.
    """

    __tablename__ = "melange_inbox_attempts"

    key_digest: Mapped[str] = mapped_column(String(32), primary_key=True)
    queue_address: Mapped[str] = mapped_column(String(512))
    listener_name: Mapped[str] = mapped_column(String(256))
    message_id: Mapped[str] = mapped_column(String(128))
    attempts: Mapped[int] = mapped_column(Integer)
    token_digest: Mapped[str | None] = mapped_column(String(32))
    leased_until: Mapped[datetime] = mapped_column(DateTime(timezone=True))


PUBLISHED_AT = type_coerce(OutboxMessage.published_at, _UtcDateTime()).label("published_at")
"""The time, to be read aware."""

# PostgreSQL has more years than Python, and infinity.
_YEARS = (datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC))


def _time_or_none(time: InstrumentedAttribute[datetime], name: str) -> ColumnElement[datetime]:
    """Return the time, or None where the row holds none that can be read."""
    return type_coerce(case((time.between(*_YEARS), time)), _UtcDateTimeOrNone()).label(name)


PUBLISHED_AT_OR_NONE = _time_or_none(OutboxMessage.published_at, "published_at")
DUE_AT_OR_NONE = _time_or_none(OutboxScheduledMessage.due_at, "due_at")


def _state_is(of: type[OutboxMessage], *states: MessageState) -> ColumnElement[bool]:
    # Literal text in the statement: with a parameter no partial index would be used.
    return of.state.in_([literal_column(f"'{state}'") for state in states])


def is_stopped(of: type[OutboxMessage] = OutboxMessage) -> ColumnElement[bool]:
    """Return the condition for messages that failed or are held, in the form of their index."""
    return _state_is(of, MessageState.FAILED, MessageState.HELD)


def is_failed(of: type[OutboxMessage] = OutboxMessage) -> ColumnElement[bool]:
    """Return the condition for failed messages; it repeats the index's condition, which SQLite needs."""
    return and_(is_stopped(of), _state_is(of, MessageState.FAILED))


def has_same_key(one: type[OutboxMessage], other: type[OutboxMessage]) -> ColumnElement[bool]:
    """Return the condition that two rows have the same key; a row without a key has it in common with none."""
    return and_(one.lock_key == other.lock_key, one.topic == other.topic, one.key == other.key)


IS_PENDING: ColumnElement[bool] = OutboxMessage.state == literal_column(f"'{MessageState.PENDING}'")


def row_of(topic: str, key: str | None, message: Message, due_at: datetime | None) -> dict[str, Any]:
    """Return the columns of a message's row: with ``due_at`` those of a scheduled one."""
    time = {"published_at": message.published_at} if due_at is None else {"due_at": due_at}
    return {
        "topic": topic,
        "key": key,
        "lock_key": _lock_key_of(topic, message.message_id if key is None else key),
        "message_id": message.message_id,
        "event_type_name": message.event_type_name,
        "body": message.body,
        "headers": dict(message.headers) or None,
        "message_group_id": message.message_group_id,
        "message_deduplication_id": message.message_deduplication_id,
        **time,
    }


def _lock_key_of(topic: str, key: str) -> int:
    """Return a number of 32 bits, signed, for the messages that one relay at a time may send."""
    return zlib.crc32(f"{topic} {key}".encode()) - 2**31


_DIALECTS: dict[str, type[Dialect]] = {"postgresql": postgresql.dialect, "sqlite": sqlite.dialect}


def create_statements(dialect_name: str) -> str:
    """Return the statements that create outbox and inbox on ``postgresql`` or ``sqlite``, as one script.

    Raises:
        ConfigurationError: another dialect.
    """
    if dialect_name not in _DIALECTS:
        raise ConfigurationError(
            f"there are statements for {' and '.join(_DIALECTS)}, not for {dialect_name!r}{nearest(dialect_name, _DIALECTS)}"
        )
    dialect = _DIALECTS[dialect_name]()
    statements: list[CreateTable | CreateIndex] = []
    for table in metadata.sorted_tables:
        statements.append(CreateTable(table))
        statements += [
            CreateIndex(index) for index in sorted(table.indexes, key=lambda index: str(index.name))
        ]
    texts = (str(statement.compile(dialect=dialect)).strip() for statement in statements)
    lines = (line.rstrip() for text in texts for line in f"{text};\n".split("\n"))
    return "\n".join(lines)
