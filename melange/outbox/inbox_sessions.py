"""The sessions of an inbox, synchronous or not, and the one connection that marks and effects share."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session

from melange.deduplication.base import RunCoroutine
from melange.errors import ConfigurationError, DeduplicationError, MelangeError
from melange.outbox.database_errors import explained, require_whole_password
from melange.outbox.tables import InboxMark

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

logger = logging.getLogger(__name__)

MakeSession: TypeAlias = "Callable[[], Session] | Callable[[], AsyncSession]"
Database: TypeAlias = "Engine | Connection"
Result = TypeVar("Result")


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
                "an inbox takes a sessionmaker, not a scoped_session: each delivery needs a session of its own"
            )
        # It connects at its first use.
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

    def run(self, action: str, work: Callable[[Connection], Result]) -> Result:
        """Call ``work`` with a connection to the database of the marks, commit, and return the result.

        Raises:
            DeduplicationError: the database is unavailable; the text says that ``action`` was not possible.
        """

        def in_transaction(session: Session) -> Result:
            database = database_of(session)
            with mapped_errors(action), transaction_on(database) as connection:
                return work(connection)

        return self.open().run(in_transaction)

    def _made(self) -> Session | AsyncSession:
        session: Any = self._make_session()
        sync_session = getattr(session, "sync_session", session)
        if not isinstance(sync_session, Session):
            raise ConfigurationError(
                f"an inbox takes a sessionmaker or another maker of sessions, and this one made {session!r}"
            )
        if sync_session.twophase:
            raise ConfigurationError(
                "an inbox does not support sessions with twophase=True, because their commits can stay undecided: leave it "
                "out, and keep what a listener writes in the database of its mark"
            )
        result: Session | AsyncSession = session
        return result


# --- one connection for mark and effect ---


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


def connection_to(session: Session, database: Database) -> Connection:
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


def refuse_writes_elsewhere(session: Session, own: Connection) -> None:
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


# --- listeners that were given up ---

_INTERRUPTING_SECONDS = 5.0


def refuse_everything(session: Session, connection: Connection) -> None:
    """Let no statement begin on the connection any more, and the session begin no other transaction."""

    def refuse(*_: object, **__: object) -> None:
        raise ConfigurationError(
            "this run of the listener exceeded its time limit and was given up: its transaction is rolled back"
        )

    event.listen(session, "after_transaction_create", refuse)
    event.listen(connection, "before_cursor_execute", refuse)


def interrupt(connection: Connection) -> None:
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


# --- errors ---


@contextmanager
def mapped_errors(action: str) -> Iterator[None]:
    """Raise ``DeduplicationError`` for errors of the database or the connection in the block."""
    try:
        yield
    except MelangeError:
        raise
    except Exception as error:  # drivers for an event loop raise exceptions that SQLAlchemy does not wrap
        raise unavailable(action, error) from error


def unavailable(action: str, error: Exception) -> DeduplicationError:
    """Return the error with the failed action and the reason."""
    return DeduplicationError(f"can't {action}: {explained(error)}")
