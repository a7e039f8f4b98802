"""A claim of the inbox: the transaction in which its listener works."""

# MERGED DOCS: The sessions of an inbox, of the kind that its maker makes: synchronous or not.

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Transaction
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session, SessionTransaction

from melange.deduplication.base import Claimed, ClaimRefusal, RunCoroutine
from melange.errors import ConfigurationError, DeduplicationError
from melange.outbox import inbox_marks
from melange.outbox.inbox_marks import digest_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


logger = logging.getLogger(__name__)

MakeSession: TypeAlias = "Callable[[], Session] | Callable[[], AsyncSession]"
Result = TypeVar("Result")


class OpenedSession:
    """One session, worked with from the calling thread, wherever its connection lives.

    ``offered`` is the session as its maker made it.
    """

    def __init__(self, offered: Session | AsyncSession, run_coroutine: RunCoroutine | None) -> None:
        self.offered = offered
        self._run_coroutine = run_coroutine

    def run(self, work: Callable[[Session], Result]) -> Result:
        """Return what ``work`` returns for the session; it blocks until then."""
        if isinstance(self.offered, Session):
            return work(self.offered)
        if self._run_coroutine is None:
            raise ConfigurationError(
                "an inbox with asynchronous sessions needs the event loop of a worker: use consumer.run()"
            )
        result: Result = self._run_coroutine(self.offered.run_sync(work))
        return result

    def close(self) -> None:
        """Roll back what was not committed, and give the connection back; raises nothing."""
        try:
            self.run(Session.close)
        except Exception as error:  # the connection is broken: its transaction is rolled back by that
            logger.debug("a session could not be closed: %s", type(error).__name__)
            try:
                self.run(Session.invalidate)
            except Exception:
                logger.debug("its connection could not be thrown away", exc_info=True)


class Sessions:
    """Opens sessions with ``make_session``, each new."""

    def __init__(self, make_session: MakeSession) -> None:
        self._make_session = make_session
        self._run_coroutine: RunCoroutine | None = None
        if not callable(make_session) or isinstance(make_session, Engine):
            raise ConfigurationError(
                f"an inbox takes a maker of sessions, sessionmaker(engine), not {type(make_session).__name__}"
            )
        if hasattr(make_session, "registry"):
            raise ConfigurationError(
                "an inbox takes a sessionmaker, no scoped_session: each delivery needs a session of its own"
            )
        # Nothing is connected to before it is used.
        self.are_async = not isinstance(self._made(), Session)

    def use_event_loop(self, run_coroutine: RunCoroutine) -> None:
        """Work with asynchronous sessions on that event loop, to which their connections belong from now on."""
        if self.are_async and self._run_coroutine not in (None, run_coroutine):
            raise ConfigurationError(
                "the connections of an asynchronous inbox belong to the event loop of the worker that began with it: "
                "make another engine and another Inbox for another worker"
            )
        self._run_coroutine = run_coroutine

    def open(self) -> OpenedSession:
        """Return a new session, which the caller closes."""
        return OpenedSession(self._made(), self._run_coroutine)

    def run(self, work: Callable[[Session], Result]) -> Result:
        """Return what ``work`` returns for a session of its own, committed."""

        def in_transaction(session: Session) -> Result:
            with session.begin():
                return work(session)

        opened = self.open()
        try:
            return opened.run(in_transaction)
        finally:
            opened.close()

    def _made(self) -> Session | AsyncSession:
        session = self._make_session()
        if not isinstance(getattr(session, "sync_session", session), Session):
            raise ConfigurationError(
                f"an inbox takes a sessionmaker or another maker of sessions, and this one made {session!r}"
            )
        return session


_RULE = (
    "the inbox commits its session, together with the mark, when the listener has returned. What may fail on its own "
    "goes into `with session.begin_nested():`"
)


class InboxClaim(Claimed):
    """A claim that holds as long as its transaction is open, and cannot be taken over until then.

    ``is_undecided`` when the connection broke during the commit, or before: the table knows what became of it.
    """

    is_undecided = False
    _opened: OpenedSession | None = None
    _transaction: SessionTransaction
    _transaction_of_connection: Transaction | None
    _may_commit = False

    @property
    def keywords(self) -> Mapping[str, object]:
        """The session, for the listener."""
        assert self._opened is not None
        return {"session": self._opened.offered}

    def begin(self, opened: OpenedSession) -> ClaimRefusal | None:
        """Open the transaction and return None, or why there is nothing to be done in it."""
        self._opened = opened
        return opened.run(self._begin)

    def commit(self, done_at: datetime) -> bool:
        """Commit what the listener did, with its mark; False when somebody else's is there, and nothing was done.

        Raises:
            DeduplicationError: the database was locked, and can be asked again; or ``is_undecided``.
            ConfigurationError: the listener has ended the transaction itself.
            SQLAlchemyError: the database refused what the listener did: nothing of it is there.
        """
        assert self._opened is not None
        return self._opened.run(lambda session: self._commit(session, done_at))

    def end(self) -> None:
        """Roll back what was not committed, and give the connection back."""
        if self._opened is not None:
            self._opened.close()

    def _begin(self, session: Session) -> ClaimRefusal | None:
        if session.in_transaction():
            raise ConfigurationError("make_session has to return a new session each time: this one is in use")
        self._transaction = session.begin()
        connection = inbox_marks.connection_of(session)
        self._transaction_of_connection = connection.get_transaction()
        if not inbox_marks.take_lock(connection, self.key):
            return ClaimRefusal.BUSY
        if inbox_marks.find(connection, self.key) is not None:
            return ClaimRefusal.DONE
        inbox_marks.begin_on_sqlite(connection)
        event.listen(session, "before_commit", self._before_commit)
        return None

    def _before_commit(self, session: Session) -> None:
        # Releasing a savepoint comes here as well.
        if not self._may_commit and session.get_nested_transaction() is None:
            raise ConfigurationError(f"a listener must not commit: {_RULE}")

    def _commit(self, session: Session, done_at: datetime) -> bool:
        self._require_own_transaction(session)
        session.flush()  # what the listener left to be written: if it can't be, the listener has failed
        connection = inbox_marks.connection_of(session)
        try:
            inbox_marks.write(connection, self.key, digest_of(self.token), done_at)
            self._may_commit = True
            _commit_or_forget(session, connection)
        except IntegrityError:
            if self._may_commit:  # a constraint of the listener's, which is looked at with the commit
                raise
            return False
        except DBAPIError as error:
            # The mark can be tried again as long as SQLite has the transaction open.
            if not error.connection_invalidated and (self._may_commit or not inbox_marks.is_locked(error)):
                raise
            self.is_undecided = error.connection_invalidated
            raise DeduplicationError(f"can't mark the message: {inbox_marks.explanation(error)}") from error
        except OSError as error:  # drivers for an event loop pass it on
            self.is_undecided = True
            raise DeduplicationError(f"can't mark the message: {error}") from error
        return True

    def _require_own_transaction(self, session: Session) -> None:
        """Raise ``ConfigurationError`` when what the listener did is not in the transaction that it was given."""
        is_open = session.get_transaction() is self._transaction and (
            not self._transaction.is_active or self._is_own(inbox_marks.connection_of(session))
        )
        if not is_open:
            raise ConfigurationError(
                f"the listener ended the transaction, with a commit, a rollback or a close: {_RULE}"
            )

    def _is_own(self, connection: Connection) -> bool:
        return connection.get_transaction() is self._transaction_of_connection


def _commit_or_forget(session: Session, connection: Connection) -> None:
    try:
        session.commit()
    except BaseException:
        # SQLite keeps open what it could not commit, and SQLAlchemy gives the connection back like that: whoever
        # had it next would commit it after all.
        if not connection.closed:  # or else it was committed, and something that waited for that has failed
            connection.invalidate()
        raise
