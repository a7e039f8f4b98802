"""The tables of outbox and inbox, as SQLAlchemy knows them.

``metadata`` holds both: give it to Alembic beside your own, ``target_metadata = [Base.metadata, metadata]``,
or call ``metadata.create_all(engine)``.
"""

# MERGED DOCS: Where a message of the outbox goes, and what its order is kept by. | What SQLAlchemy raises, in words that say what to do and quote no payload. | The statements that create the tables, for those who write their migrations by hand.

from __future__ import annotations

import re
import zlib
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

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
    column,
    literal_column,
    type_coerce,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateIndex, CreateTable

from melange.drivers.sqs_rules import check_topic_name
from melange.errors import ConfigurationError, InvalidMessageError, InvalidNameError, nearest

Key = str | int | UUID

MAX_KEY_CHARACTERS = 256
_TOPIC_ARN = re.compile(r"arn:[a-z0-9-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")


def check_topic(topic: object) -> None:
    """Raise ``InvalidNameError`` unless it is a name or an ARN that a topic can have."""
    if not isinstance(topic, str):
        raise InvalidNameError("topic", topic, "give its name as text, or its ARN")
    if not topic.startswith("arn:"):
        check_topic_name(topic)
    elif not _TOPIC_ARN.fullmatch(topic):
        raise InvalidNameError("topic", topic, "an ARN is arn:aws:sns:region:account:name")


def key_text_of(key: object) -> str:
    """Return the key as it is stored; raise ``InvalidMessageError`` if it is none."""
    text = str(key) if isinstance(key, (str, int, UUID)) and not isinstance(key, bool) else ""
    if not 0 < len(text) <= MAX_KEY_CHARACTERS or not text.isprintable():
        raise InvalidMessageError(
            f"the key {key!r:.140} must be 1 to {MAX_KEY_CHARACTERS} characters that print, a number or a UUID"
        )
    return text


def lock_key_of(topic: str, key: str) -> int:
    """Return a number of 32 bits, signed, for the messages that one relay at a time may send."""
    return zlib.crc32(f"{topic} {key}".encode()) - 2**31


_CREATE = "create the table: run what `melange outbox schema` prints, or call metadata.create_all(engine)"


def explained(error: BaseException) -> str:
    """Return what went wrong: the database's words, without the statement and its parameters."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    # One line: what SQLite and PostgreSQL add below it, may quote the statement.
    words = str(error).partition("\n")[0]
    text = f"{type(error).__name__}: {words}"
    return f"{text}; {_CREATE}" if _misses_table(error, words) else text


def _misses_table(error: BaseException, words: str) -> bool:
    return "no such table: melange_" in words or getattr(error, "sqlstate", None) == "42P01"


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


metadata = MetaData()


class State(StrEnum):
    """Where a message of the outbox stands.

    ``FAILED`` was refused for good and waits for somebody to decide. What its key brings after it is ``HELD``, and
    becomes ``PENDING`` again when that is done.
    """

    PENDING = "pending"
    FAILED = "failed"
    HELD = "held"
    SENT = "sent"
    SKIPPED = "skipped"


class _UtcDateTime(TypeDecorator[datetime]):
    """Reads aware times, in UTC, from databases that keep no zone too.

    Not the type of a column: Alembic would name it in migrations, which import nothing of ours.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        time: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
        return time.astimezone(UTC)


class _Base(DeclarativeBase):
    metadata = metadata


class OutboxMessage(_Base):
    """A message that was written in a transaction, to be published once that was committed.

    Messages of one ``topic`` and ``key`` leave in the order of ``id``; without a key they know no order.
    ``lock_key`` is a number made of both, by which relays keep out of each other's way. ``attempts`` counts how
    often it alone of others was not accepted, ``error`` says why; ``done_at`` is when it was sent or skipped. Times
    are in UTC, and read naive from SQLite, which keeps no zone.
    """

    __tablename__ = "melange_outbox"

    # SQLite counts up by itself only what is called INTEGER.
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
    state: Mapped[str] = mapped_column(String(8), default=State.PENDING, server_default=State.PENDING)
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    error: Mapped[str | None] = mapped_column(Text)
    done_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    # Each index holds only what its query is about, so that a million sent messages cost nothing.
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
        {"sqlite_autoincrement": True},  # an id never comes to mean another message
    )


class InboxMark(_Base):
    """A listener has finished a message: written in the transaction that holds what it did.

    ``key_digest`` stands for queue, listener and message id, which are there to be read by people, cut to their
    columns. ``token_digest`` tells whose completion it was, ``body_digest`` another message of the same id from
    the same one.
    """

    __tablename__ = "melange_inbox"

    key_digest: Mapped[str] = mapped_column(String(32), primary_key=True)
    queue_name: Mapped[str] = mapped_column(String(256))
    listener_name: Mapped[str] = mapped_column(String(256))
    message_id: Mapped[str] = mapped_column(String(128))
    token_digest: Mapped[str] = mapped_column(String(32))
    body_digest: Mapped[str] = mapped_column(String(32))
    done_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    __table_args__ = (Index("melange_inbox_done", "done_at"),)


PUBLISHED_AT = type_coerce(OutboxMessage.published_at, _UtcDateTime()).label("published_at")
"""The time, to be read aware."""


def _state_is(of: type[OutboxMessage], *states: State) -> ColumnElement[bool]:
    # In the text of the statement: with parameters no partial index would be used.
    return of.state.in_([literal_column(f"'{state}'") for state in states])


def is_stopped(of: type[OutboxMessage] = OutboxMessage) -> ColumnElement[bool]:
    """Return the condition for messages that failed or are held, in the form of their index."""
    return _state_is(of, State.FAILED, State.HELD)


def is_failed(of: type[OutboxMessage] = OutboxMessage) -> ColumnElement[bool]:
    """Return the condition for messages that failed; it names the index's condition too, for SQLite to see it."""
    return and_(is_stopped(of), _state_is(of, State.FAILED))


IS_PENDING: ColumnElement[bool] = OutboxMessage.state == literal_column(f"'{State.PENDING}'")
