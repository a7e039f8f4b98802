"""The sessions of an inbox, of the kind that its maker makes: synchronous or not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from melange.deduplication.base import RunCoroutine
from melange.errors import ConfigurationError

if TYPE_CHECKING:  # importing it needs greenlet, which only those have to have who use it
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
