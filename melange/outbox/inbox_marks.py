"""The marks of the inbox: what is asked of their table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Integer, Table, bindparam, delete, func, insert, literal, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, TimeoutError  # noqa: A004 - SQLAlchemy names it so
from sqlalchemy.orm import Session

from melange.deduplication.base import DeduplicationKey
from melange.errors import DeduplicationError, MelangeError
from melange.outbox.tables import InboxMark

_DIGEST_BYTES = 16

# Made once: putting statements together costs more than carrying them out.
_TABLE = cast(Table, InboxMark.__table__)
_FIND = select(_TABLE.c.token_digest).where(_TABLE.c.key_digest == bindparam("key_digest"))
_LOCK = select(
    func.pg_try_advisory_xact_lock(bindparam("high", type_=Integer), bindparam("low", type_=Integer))
)
_WRITE = insert(_TABLE)


def digest_of(text: str) -> str:
    """Return what the table holds of a text: any text may stand in keys, and columns do not take any."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def connection_of(session: Session) -> Connection:
    """Return the session's connection to the database of the marks."""
    return session.connection(bind_arguments={"mapper": InboxMark.__mapper__})


def take_lock(connection: Connection, key: DeduplicationKey) -> bool:
    """Keep others from the key until the transaction ends, where the database can; False when one is at it.

    PostgreSQL does it without waiting. Elsewhere the second of two that run one listener at the same time for the
    same message finds the mark of the first, and is rolled back.
    """
    if connection.dialect.name != "postgresql":
        return True
    digest = key.digest()
    high, low = (int.from_bytes(part, signed=True) for part in (digest[:4], digest[4:8]))
    return bool(connection.scalar(_LOCK, {"high": high, "low": low}))


def begin_on_sqlite(connection: Connection) -> None:
    """Begin the transaction that sqlite3, left to itself, begins with the first INSERT, UPDATE or DELETE.

    That is too late: what was read before is no part of it, so that two listeners would both add to the same number;
    and releasing a savepoint would commit. Nothing is locked by this until something is read.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name != "sqlite" or driver.in_transaction:
        return
    # Otherwise the engine was told to have no transactions.
    if driver.isolation_level is not None and getattr(driver, "autocommit", -1) == -1:
        connection.exec_driver_sql("BEGIN")


def find(connection: Connection, key: DeduplicationKey) -> str | None:
    """Return the digest of the token whose completion the mark of the key is, if there is one."""
    token_digest: str | None = connection.scalar(_FIND, {"key_digest": key.digest().hex()})
    return token_digest


def write(connection: Connection, key: DeduplicationKey, token_digest: str, done_at: datetime) -> None:
    """Write the mark in the connection's transaction.

    Raises:
        IntegrityError: the key has one.
    """
    values = {
        "key_digest": key.digest().hex(),
        "queue_address": _legible(key.queue_address, 512),
        "listener_name": _legible(key.listener_name, 256),
        "message_id": _legible(key.message_id, 128),
        "token_digest": token_digest,
        "done_at": done_at,
    }
    connection.execute(_WRITE, values)


def look(session: Session) -> None:
    """Raise what the database says when there is no table of marks, or not this one."""
    session.execute(select(*_TABLE.columns).where(literal(False)))


def delete_done_before(session: Session, time: datetime, limit: int) -> int:
    """Delete at most ``limit`` marks, the oldest first, and return how many it were."""
    # Others who do the same are not waited for.
    old = (
        select(InboxMark.key_digest).where(InboxMark.done_at < time).order_by(InboxMark.done_at).limit(limit)
    )
    digests = session.scalars(old.with_for_update(skip_locked=True)).all()
    if digests:
        session.execute(
            delete(InboxMark).where(InboxMark.key_digest.in_(digests)),
            execution_options={"synchronize_session": False},
        )
    return len(digests)


@contextmanager
def told(action: str) -> Iterator[None]:
    """Raise ``DeduplicationError`` for what the database, or the way to it, raises in the block."""
    try:
        yield
    except MelangeError:
        raise
    except Exception as error:  # drivers that connect for an event loop raise what SQLAlchemy does not know
        raise DeduplicationError(f"can't {action}: {explanation(error)}") from error


def is_locked(error: DBAPIError) -> bool:
    """Return whether SQLite has waited in vain for another process that writes, and may be asked again."""
    name: str = getattr(error.orig, "sqlite_errorname", "")
    # What the transaction has read is out of date with BUSY_SNAPSHOT, and stays so: it can only be rolled back.
    return name.startswith("SQLITE_BUSY") and name != "SQLITE_BUSY_SNAPSHOT"


def explanation(error: Exception) -> str:
    """Return what went wrong, without the parameters that SQLAlchemy shows."""
    if isinstance(error, TimeoutError):
        return "every connection of the engine's pool is taken: allow as many as listeners run at once"
    text = f"{error.orig}" if isinstance(error, DBAPIError) else f"{error}"
    what = f"{type(error).__name__}: {' '.join(text.split())}"
    if isinstance(error, SQLAlchemyError) and InboxMark.__tablename__ in text:
        what += (
            " (create the inbox's table: `melange outbox schema` prints it, "
            "melange.outbox.tables.metadata.create_all(engine) makes it)"
        )
    return what


def _legible(text: str, length: int) -> str:
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()[:length]
