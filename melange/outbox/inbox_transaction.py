"""A claim of the inbox: the attempt, counted first, and the transaction of the listener."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import Transaction
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session, SessionTransaction

from melange.deduplication.base import Claimed, ClaimRefusal, DeduplicationKey
from melange.errors import ConfigurationError
from melange.outbox import inbox_statements
from melange.outbox.inbox_sessions import (
    Database,
    OpenedSession,
    connection_to,
    database_of,
    interrupt,
    mapped_errors,
    refuse_everything,
    refuse_writes_elsewhere,
    transaction_on,
    unavailable,
)

_RULE = (
    "the inbox commits its session, together with the mark, when the listener has returned. What may fail on its own "
    "goes into `with session.begin_nested():`"
)
_MARK = "mark the message"


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
        refuse_everything(self._opened.session, self._connection)
        interrupt(self._connection)

    def end(self) -> None:
        """Roll back what was not committed, and release the connection. Never raises."""
        self._opened.close()

    def _begin(self, session: Session, opened: OpenedSession, database: Database) -> bool:
        """Open the transaction; return False if another one works on the key."""
        self._opened, self._database = opened, database
        self._transaction = session.begin()
        connection = self._connection = connection_to(session, database)
        self._transaction_of_connection = connection.get_transaction()
        if not inbox_statements.take_lock(connection, self.key):
            return False
        _begin_on_sqlite(connection)
        event.listen(session, "before_commit", self._before_commit)
        refuse_writes_elsewhere(session, connection)
        return True

    def _before_commit(self, session: Session) -> None:
        # Releasing a savepoint also comes here.
        if not self._may_commit and session.get_nested_transaction() is None:
            raise ConfigurationError(f"a listener must not commit: {_RULE}")

    def _commit(self, session: Session, done_at: datetime) -> bool:
        self._require_own_transaction(session)
        session.flush()  # the listener's unwritten changes: if they cannot be written, the listener has failed
        connection = connection_to(session, self._database)
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
            not self._transaction.is_active or self._is_own(connection_to(session, self._database))
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
    never_ran: str | None,
) -> InboxClaim | ClaimRefusal:
    """Count the attempt in its own transaction, which no crash undoes, then open the listener's.

    ``never_ran`` is as in ``count_attempt``. The session is closed unless there is a claim.
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
