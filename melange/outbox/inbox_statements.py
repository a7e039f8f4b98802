"""The marks and attempts of the inbox, in their tables.

Keys are stored as digests, in text form, because a key may contain text that a column refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Executable,
    Integer,
    String,
    Table,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from melange.deduplication.base import ClaimRefusal, DeduplicationKey
from melange.errors import ConfigurationError
from melange.outbox.tables import InboxAttempts, InboxMark

_DIGEST_BYTES = 16

_MARKS = cast(Table, InboxMark.__table__)
_ATTEMPTS = cast(Table, InboxAttempts.__table__)


class _Row(NamedTuple):
    """A deduplication key and a claim's token, in the form of the tables."""

    key_digest: str
    queue_address: str
    listener_name: str
    message_id: str
    token_digest: str

    @classmethod
    def of(cls, key: DeduplicationKey, token: str) -> _Row:
        """Return what the tables hold of them."""
        return cls(
            key.digest().hex(),
            _legible(key.queue_address, 512),
            _legible(key.listener_name, 256),
            _legible(key.message_id, 128),
            digest_of(token),
        )


def digest_of(token: str) -> str:
    """Return what the tables hold of a token."""
    return hashlib.blake2b(token.encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def _legible(text: str, length: int) -> str:
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()[:length]


# --- statements: built once, because building one takes longer than executing it -----------------

_IS_KEY = _ATTEMPTS.c.key_digest == bindparam("key")
_FIND_MARK = select(_MARKS.c.token_digest).where(_MARKS.c.key_digest == bindparam("key"))
_WRITE_MARK = insert(_MARKS)
_FIND_TOKEN = select(_ATTEMPTS.c.token_digest).where(_IS_KEY)
_FORGET_ATTEMPTS = delete(_ATTEMPTS).where(_IS_KEY)
_GIVE_BACK = (
    update(_ATTEMPTS)
    .where(_IS_KEY, _ATTEMPTS.c.token_digest == bindparam("token"))
    .values(token_digest=null(), attempts=_ATTEMPTS.c.attempts - bindparam("taken_back", type_=Integer))
)

_LOCK = func.pg_try_advisory_xact_lock(bindparam("high", type_=Integer), bindparam("low", type_=Integer))
# An attempt has to outlive this process, not the server's machine: its commit need not wait for the disk.
_COMMITS_SOON = func.set_config("synchronous_commit", "off", True) == "off"


def _count_attempt(insert_into: Any, *conditions: ColumnElement[bool]) -> Executable:
    """Return the statement that counts an attempt and returns its number, or returns nothing if the claim is refused.

    One statement, so that what it reads can't change before it writes, on SQLite too.
    """
    new_row: Mapping[Column[Any], Any] = {
        _ATTEMPTS.c.key_digest: bindparam("key", type_=String),
        _ATTEMPTS.c.queue_address: bindparam("queue_address", type_=String),
        _ATTEMPTS.c.listener_name: bindparam("listener_name", type_=String),
        _ATTEMPTS.c.message_id: bindparam("message_id", type_=String),
        _ATTEMPTS.c.attempts: literal(1),
        _ATTEMPTS.c.token_digest: bindparam("token", type_=String),
        _ATTEMPTS.c.leased_until: bindparam("leased_until", type_=DateTime(timezone=True)),
    }
    is_done = exists().where(_MARKS.c.key_digest == bindparam("key"))
    row = select(*new_row.values()).where(~is_done, *conditions)
    counting = insert_into(_ATTEMPTS).from_select(list(new_row), row)
    is_same_attempt = _ATTEMPTS.c.token_digest.in_([bindparam("token"), bindparam("never_ran")])
    is_free = or_(
        _ATTEMPTS.c.token_digest.is_(None),
        is_same_attempt,
        _ATTEMPTS.c.leased_until <= bindparam("now", type_=DateTime(timezone=True)),
    )
    statement: Executable = counting.on_conflict_do_update(
        index_elements=[_ATTEMPTS.c.key_digest],
        set_={
            "attempts": case((is_same_attempt, _ATTEMPTS.c.attempts), else_=_ATTEMPTS.c.attempts + 1),
            "token_digest": counting.excluded.token_digest,
            "leased_until": counting.excluded.leased_until,
        },
        where=is_free,
    ).returning(_ATTEMPTS.c.attempts)
    return statement


_COUNT_ATTEMPT: dict[str, Executable] = {
    # A transaction that is open beyond its lease keeps its lock. The lock may come after the mark was looked for: if that
    # was written in between, the listener runs without effect, because its own mark is refused.
    "postgresql": _count_attempt(postgresql.insert, cast("ColumnElement[bool]", _LOCK), _COMMITS_SOON),
    "sqlite": _count_attempt(sqlite.insert),
}


def _old(table: Table, date: Column[Any]) -> Any:
    # Do not wait for others that delete the same rows.
    return (
        select(table.c.key_digest)
        .where(date < bindparam("before", type_=DateTime(timezone=True)))
        .order_by(date)
        .limit(bindparam("limit", type_=Integer))
        .with_for_update(skip_locked=True)
    )


_OLD_MARKS = _old(_MARKS, _MARKS.c.done_at)
_OLD_ATTEMPTS = _old(_ATTEMPTS, _ATTEMPTS.c.leased_until)


# --- what is done with them ---------------------------------------------------------------------


def take_lock(connection: Connection, key: DeduplicationKey) -> bool:
    """Lock the key until the transaction ends, if the database can; return False if another has it.

    PostgreSQL does it without waiting. On SQLite the second of two that run one listener at the same time for the same
    message finds the mark of the first, and is rolled back.
    """
    return connection.dialect.name != "postgresql" or bool(connection.scalar(select(_LOCK), _lock_of(key)))


def _lock_of(key: DeduplicationKey) -> dict[str, int]:
    digest = key.digest()
    return {
        "high": int.from_bytes(digest[:4], signed=True),
        "low": int.from_bytes(digest[4:8], signed=True),
    }


def count_attempt(
    connection: Connection,
    key: DeduplicationKey,
    token: str,
    *,
    now: datetime,
    leased_until: datetime,
    never_ran: Sequence[str],
) -> int | ClaimRefusal:
    """Return the number of the new attempt, or the refusal; the caller commits.

    ``never_ran`` are tokens of claims of this process that did not run: if one of them was counted, its number is used now.
    """
    statement = _COUNT_ATTEMPT.get(connection.dialect.name)
    if statement is None:
        raise ConfigurationError(
            f"an inbox is on {' or '.join(_COUNT_ATTEMPT)}, and its sessions are bound to {connection.dialect.name}: "
            "use another deduplication store"
        )
    row = _Row.of(key, token)
    attempt: int | None = connection.scalar(
        statement,
        {
            "key": row.key_digest,
            "queue_address": row.queue_address,
            "listener_name": row.listener_name,
            "message_id": row.message_id,
            "token": row.token_digest,
            "never_ran": _counted_one(connection, row, never_ran),
            "now": now,
            "leased_until": leased_until,
            **(_lock_of(key) if connection.dialect.name == "postgresql" else {}),
        },
    )
    if attempt is not None:
        return attempt
    return ClaimRefusal.BUSY if find_mark(connection, key) is None else ClaimRefusal.DONE


def _counted_one(connection: Connection, row: _Row, never_ran: Sequence[str]) -> str:
    """Return the digest of the token that was counted among those that did not run; if there is none, that of the claim."""
    if not never_ran:
        return row.token_digest
    held: str | None = connection.scalar(_FIND_TOKEN, {"key": row.key_digest})
    return next((one for one in map(digest_of, never_ran) if one == held), row.token_digest)


def give_back(connection: Connection, key: DeduplicationKey, token: str, *, began: bool) -> None:
    """Release the key; the attempt stays counted unless the listener was never called."""
    parameters = {"key": key.digest().hex(), "token": digest_of(token), "taken_back": 0 if began else 1}
    connection.execute(_GIVE_BACK, parameters)


def forget_attempts(connection: Connection, key: DeduplicationKey) -> None:
    """Delete the row of the key's attempts, if there is one."""
    connection.execute(_FORGET_ATTEMPTS, {"key": key.digest().hex()})


def find_mark(connection: Connection, key: DeduplicationKey) -> str | None:
    """Return the digest of the token that marked the key; None if it is not marked."""
    token_digest: str | None = connection.scalar(_FIND_MARK, {"key": key.digest().hex()})
    return token_digest


def write_mark(connection: Connection, key: DeduplicationKey, token: str, done_at: datetime) -> None:
    """Write the mark in the connection's transaction, in place of the attempts.

    Raises:
        IntegrityError: the key is marked already.
    """
    connection.execute(_WRITE_MARK, {**_Row.of(key, token)._asdict(), "done_at": done_at})
    forget_attempts(connection, key)


def check_tables(connection: Connection) -> None:
    """Raise the database's error if one of the tables is missing or has other columns."""
    for table in (_MARKS, _ATTEMPTS):
        connection.execute(select(*table.columns).where(literal(False)))


def delete_old(connection: Connection, before: datetime, limit: int) -> tuple[int, int]:
    """Delete at most ``limit`` marks and as many attempts, the oldest first; return both numbers."""
    marks = _delete(connection, _MARKS, _OLD_MARKS, before, limit)
    return marks, _delete(connection, _ATTEMPTS, _OLD_ATTEMPTS, before, limit)


def _delete(connection: Connection, table: Table, old: Executable, before: datetime, limit: int) -> int:
    digests = connection.scalars(old, {"before": before, "limit": limit}).all()
    if digests:
        connection.execute(delete(table).where(table.c.key_digest.in_(digests)))
    return len(digests)
