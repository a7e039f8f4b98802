"""The transaction of a listener in the inbox: claimed after its attempt was counted, and committed with the mark."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Transaction
from sqlalchemy.exc import DBAPIError, IntegrityError, UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction

from melange.deduplication.base import Claimed, ClaimRefusal, DeduplicationKey, RunCoroutine
from melange.errors import ConfigurationError
from melange.outbox import inbox_statements
from melange.outbox.database_errors import explained, mapped_errors, require_whole_password, unavailable
from melange.outbox.tables import InboxMark

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

logger = logging.getLogger(__name__)

Database: TypeAlias = "Engine | Connection"
Result = TypeVar("Result")

_RULE = (
    "the inbox commits its session, together with the mark, when the listener has returned. What may fail on its own "
    "goes into `with session.begin_nested():`"
)
_MARK = "mark the message"


class OpenedSession:
    """One session, used from the calling thread, with its connection in this thread or an event loop.

    ``offered`` is the session that the maker returned.
    """

    def __init__(self, offered: Session | AsyncSession, run_coroutine: RunCoroutine | None) -> None:
        self.offered = offered
        self._run_coroutine = run_coroutine

    def run(self, work: Callable[[Session], Result]) -> Result:
        """Call ``work`` with the session and return its result. Blocks."""
        if isinstance(self.offered, Session):
            return work(self.offered)
        if self._run_coroutine is None:
            raise ConfigurationError(
                "an inbox with asynchronous sessions needs the event loop of a worker: use consumer.run()"
            )
        result: Result = self._run_coroutine(self.offered.run_sync(work))
        return result

    @property
    def session(self) -> Session:
        """The session, or the one below an asynchronous one."""
        return self.offered if isinstance(self.offered, Session) else self.offered.sync_session

    def close(self) -> None:
        """Roll back what was not committed, and release the connection. Never raises."""
        try:
            self.run(Session.close)
        except Exception as error:  # the connection is broken: its transaction is rolled back by that
            logger.debug("a session could not be closed: %s", type(error).__name__)
            try:
                self.run(Session.invalidate)
            except Exception:
                logger.debug("the connection of the session could not be closed", exc_info=True)


class InboxClaim(Claimed):
    """A claim that lasts as long as its transaction, and cannot be taken over until then.

    ``is_undecided`` is True if the connection broke before or during the commit: the table has the result.
    """

    is_undecided = False
    _connection: Connection
    _opened: OpenedSession
    _database: Database
    _transaction: SessionTransaction
    _transaction_of_connection: Transaction | None
    _may_commit = False

    @property
    def keywords(self) -> Mapping[str, object]:
        """The session, for the listener."""
        return {"session": self._opened.offered}

    def commit(self, done_at: datetime) -> bool:
        """Commit the listener's work with its mark; return False if another mark exists, and nothing was done.

        Raises:
            DeduplicationError: the database was locked, so try again; or ``is_undecided``.
            ConfigurationError: the listener has ended the transaction itself.
            SQLAlchemyError: the database refused the listener's work: all of it is rolled back.
        """
        return self._opened.run(lambda session: self._commit(session, done_at))

    def give_up(self) -> None:
        """Refuse what the listener still does with the session in another thread, and interrupt what it does now.

        Otherwise the rollback would wait for its statement, and what it does later would hold a connection and locks.
        """
        _refuse_everything(self._opened.session, self._connection)
        _interrupt(self._connection)

    def end(self) -> None:
        """Roll back what was not committed, and release the connection. Never raises."""
        self._opened.close()

    def _begin(self, session: Session, opened: OpenedSession, database: Database) -> bool:
        """Open the transaction; return False if another one works on the key."""
        self._opened, self._database = opened, database
        self._transaction = session.begin()
        connection = self._connection = _connection_to(session, database)
        self._transaction_of_connection = connection.get_transaction()
        if not inbox_statements.take_lock(connection, self.key):
            return False
        _begin_on_sqlite(connection)
        event.listen(session, "before_commit", self._before_commit)
        _refuse_writes_elsewhere(session, connection)
        return True

    def _before_commit(self, session: Session) -> None:
        # Releasing a savepoint also comes here.
        if not self._may_commit and session.get_nested_transaction() is None:
            raise ConfigurationError(f"a listener must not commit: {_RULE}")

    def _commit(self, session: Session, done_at: datetime) -> bool:
        self._require_own_transaction(session)
        session.flush()  # the listener's unwritten changes: if they cannot be written, the listener has failed
        connection = _connection_to(session, self._database)
        try:
            inbox_statements.write_mark(connection, self.key, self.token, done_at)
            self._may_commit = True
            _commit_or_forget(session, connection)
        except IntegrityError:
            if self._may_commit:  # a constraint of the listener's, which is checked at the commit
                raise
            return False
        except DBAPIError as error:
            # The mark can be tried again as long as SQLite has the transaction open.
            if not error.connection_invalidated and (self._may_commit or not _is_locked(error)):
                raise
            self.is_undecided = error.connection_invalidated
            raise unavailable(_MARK, error) from error
        except OSError as error:  # drivers for an event loop pass it on
            self.is_undecided = True
            raise unavailable(_MARK, error) from error
        return True

    def _require_own_transaction(self, session: Session) -> None:
        """Raise ``ConfigurationError`` if the listener's work is not in the claim's transaction."""
        is_open = session.get_transaction() is self._transaction and (
            not self._transaction.is_active or self._is_own(_connection_to(session, self._database))
        )
        if not is_open:
            raise ConfigurationError(
                f"the listener ended the transaction, with a commit, a rollback or a close: {_RULE}"
            )

    def _is_own(self, connection: Connection) -> bool:
        return connection.get_transaction() is self._transaction_of_connection


def open_claim(
    opened: OpenedSession,
    key: DeduplicationKey,
    token: str,
    *,
    now: datetime,
    lease_seconds: float,
    never_ran: Sequence[str],
) -> InboxClaim | ClaimRefusal:
    """Count the attempt in its own transaction, which no crash undoes, then open the listener's.

    ``never_ran`` are as in ``count_attempt``. The session is closed unless there is a claim.
    """
    leased_until = now + timedelta(seconds=lease_seconds)

    def begin(session: Session) -> InboxClaim | ClaimRefusal:
        if session.in_transaction():
            raise ConfigurationError("make_session has to return a new session each time: this one is in use")
        database = database_of(session)
        with mapped_errors("claim the message"):
            with transaction_on(database) as connection:
                attempt = inbox_statements.count_attempt(
                    connection, key, token, now=now, leased_until=leased_until, never_ran=never_ran
                )
            if isinstance(attempt, ClaimRefusal):
                return attempt
            claim = InboxClaim(key, token, attempt)
            if claim._begin(session, opened, database):
                return claim
            # Another claim came in between, because this one waited for longer than its lease.
            session.close()
            with transaction_on(database) as connection:
                inbox_statements.give_back(connection, key, token, began=False)
            return ClaimRefusal.BUSY

    claim: InboxClaim | ClaimRefusal | None = None
    try:
        claim = opened.run(begin)
    finally:
        if not isinstance(claim, InboxClaim):
            opened.close()
    return claim


def _begin_on_sqlite(connection: Connection) -> None:
    """Begin the transaction that sqlite3, by default, begins with the first INSERT, UPDATE or DELETE.

    That is too late: earlier reads are not part of it, so two listeners could add to the same number, and releasing a
    savepoint would commit. This locks nothing until the first read.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name != "sqlite" or driver.in_transaction:
        return
    # Otherwise the engine is set to autocommit.
    if driver.isolation_level is not None and getattr(driver, "autocommit", -1) == -1:
        connection.exec_driver_sql("BEGIN")


def _is_locked(error: DBAPIError) -> bool:
    """Return True if SQLite waited too long for another writer, so that a retry may succeed."""
    name: str = getattr(error.orig, "sqlite_errorname", "")
    # What the transaction has read is out of date with BUSY_SNAPSHOT, and stays so: it can only be rolled back.
    return name.startswith("SQLITE_BUSY") and name != "SQLITE_BUSY_SNAPSHOT"


def _commit_or_forget(session: Session, connection: Connection) -> None:
    try:
        session.commit()
    except BaseException:
        # SQLite keeps a transaction open that it could not commit, and SQLAlchemy returns the connection to the pool
        # with it: the next user would commit it.
        if not connection.closed:  # otherwise it was committed, and a hook after the commit has failed
            connection.invalidate()
        raise


# --- one connection for mark and effect ---------------------------------------------------------


def database_of(session: Session) -> Database:
    """Return the engine or connection that the session writes to, and that has the marks.

    Raises:
        ConfigurationError: the session has none for them, or its errors would show a part of a password.
    """
    # A session that reads from a replica decides in ``get_bind`` if the call is for a flush.
    is_flushing = session._flushing
    session._flushing = True
    try:
        database = session.get_bind(InboxMark.__mapper__)
    except UnboundExecutionError:
        raise ConfigurationError(
            f"the sessions of this inbox are not bound to a database for {InboxMark.__tablename__}: use "
            "sessionmaker(engine), or sessionmaker(engine, binds={...}) with the engine that the listeners write to"
        ) from None
    finally:
        session._flushing = is_flushing
    require_whole_password(database.engine)
    return database


def _connection_to(session: Session, database: Database) -> Connection:
    """Return the session's own connection to that database, in the session's transaction."""
    return session.connection(bind_arguments={"bind": database})


@contextmanager
def transaction_on(database: Database) -> Iterator[Connection]:
    """Provide a connection in its own transaction, committed at the end of the block."""
    if isinstance(database, Engine):
        with database.begin() as connection:
            yield connection
    else:  # a session that a test has bound to a connection, which may be in the test's transaction
        with database.begin_nested() if database.in_transaction() else database.begin():
            yield database


def _refuse_writes_elsewhere(session: Session, own: Connection) -> None:
    """Let the session's transaction write only on the connection that is committed with the mark.

    The listener may read elsewhere, for example from a replica.
    """
    # Most sessions have one engine, and need no watching. SQLAlchemy 2.0 keeps ``binds`` under its private name.
    binds = getattr(session, "binds", getattr(session, "_Session__binds", True))
    if not binds and type(session).get_bind is Session.get_bind:
        return

    def watch(*, connection: Connection, **_: object) -> None:
        if connection is not own:
            event.listen(connection, "before_cursor_execute", _refuse_writes, named=True)

    event.listen(session, "after_begin", watch, named=True)


_WRITES = re.compile(
    r"\s*(insert|update|delete|merge|replace|truncate|copy|create|alter|drop)\b", re.IGNORECASE
)


def _refuse_writes(*, statement: str, context: Any, **_: object) -> None:
    if context.isinsert or context.isupdate or context.isdelete or _WRITES.match(statement):
        raise ConfigurationError(
            "a listener wrote with the inbox's session to another database, or over another connection, than the one its "
            "mark is in, so that they can't be committed together: bind melange's tables and the listener's to one engine "
            "(get_bind, binds=), or write with a session of the listener's own what may happen twice"
        )


# --- listeners that were given up ---------------------------------------------------------------

_INTERRUPTING_SECONDS = 5.0


def _refuse_everything(session: Session, connection: Connection) -> None:
    """Let no statement begin on the connection any more, and the session begin no other transaction."""

    def refuse(*_: object, **__: object) -> None:
        raise ConfigurationError(
            "this run of the listener exceeded its time limit and was given up: its transaction is rolled back"
        )

    event.listen(session, "after_transaction_create", refuse)
    event.listen(connection, "before_cursor_execute", refuse)


def _interrupt(connection: Connection) -> None:
    """End the statement that another thread waits for, if there is one and the driver can. It raises nothing.

    The connection must not be closed instead: the thread would go on to read from the next one with its file descriptor.
    """
    try:
        driver: Any = connection.connection.driver_connection
        if hasattr(driver, "cancel_safe"):  # psycopg from 3.2
            driver.cancel_safe(timeout=_INTERRUPTING_SECONDS)
        elif hasattr(driver, "cancel"):  # psycopg2
            driver.cancel()
        elif hasattr(driver, "interrupt"):  # sqlite3
            driver.interrupt()
    except Exception as error:
        logger.warning("a statement of a listener that was given up goes on: %s", explained(error))
