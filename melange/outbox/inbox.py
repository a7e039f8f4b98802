"""The inbox: a deduplication store with its marks in the listener's own transaction."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from melange.clock import Clock, SystemClock
from melange.deduplication.base import (
    DEFAULT_RETENTION_SECONDS,
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
    RunCoroutine,
)
from melange.errors import ConfigurationError, DeduplicationError, is_number
from melange.outbox import inbox_statements
from melange.outbox.database_errors import mapped_errors
from melange.outbox.inbox_transaction import (
    InboxClaim,
    OpenedSession,
    Result,
    database_of,
    open_claim,
    transaction_on,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


logger = logging.getLogger(__name__)

_PURGE_EVERY = 500
"""Completions between two purges; each deletes up to twice as many, so that none is left behind for long."""
_PURGE_BATCH = 1_000
_MOST_NEVER_RAN = 1_000
_MOST_TOKENS = 20


class Inbox(DeduplicationStore):
    """Keeps marks in the listeners' database, each in its listener's own transaction.

    The listener's work with ``session`` is committed together with the mark, after the listener has returned: both
    are there or neither is. ``make_session`` is a ``sessionmaker``, or any callable that returns a new
    ``Session`` each time; with an ``async_sessionmaker`` the listeners are asynchronous and get an ``AsyncSession``,
    on the event loop of one worker. A listener must not commit, roll back or close it; use ``session.begin_nested()`` for a
    step that may fail by itself.

    Each running delivery holds one connection: the engine's pool has to allow the worker's ``concurrency``. The
    tables ``melange_inbox`` and ``melange_inbox_attempts`` must exist. On PostgreSQL a message in work at another
    process is detected before its listener runs. Elsewhere it is detected at the latest after the run, which is then
    rolled back. A claim lasts as long as its transaction, also beyond its lease.

    Each completion may delete some marks older than ``retention_seconds``; ``purge`` deletes all of them.
    Thread-safe.

    Raises:
        ConfigurationError: ``make_session`` or ``retention_seconds`` can't be used.
    """

    keyword_names = ("session",)
    outlives_process = True

    def __init__(
        self,
        make_session: MakeSession,
        *,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        if not is_number(retention_seconds) or not 0 < retention_seconds < math.inf:
            raise ConfigurationError(f"retention_seconds has to be above 0, not {retention_seconds!r}")
        self._sessions = _Sessions(make_session)
        self.listeners_are_async = self._sessions.are_async
        self._retention = timedelta(seconds=retention_seconds)
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._claims: dict[DeduplicationKey, InboxClaim | None] = {}
        """None while a claim is being made."""
        self._never_ran: dict[DeduplicationKey, list[str]] = {}
        """Tokens of claims that failed half-way: the attempt of one may be counted, and is used by the next."""
        self._completions = 0

    def use_event_loop(self, run_coroutine: RunCoroutine) -> None:
        """Work with asynchronous sessions on that event loop.

        Raises:
            ConfigurationError: they work on another one already.
        """
        self._sessions.use_event_loop(run_coroutine)

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        """Count the attempt and open the transaction of the listener.

        The lease keeps other processes away from the message; after that, on PostgreSQL, the open transaction does.
        """
        with self._lock:
            if key in self._claims:
                held = self._claims[key]
                return held if held is not None and held.token == token else ClaimRefusal.BUSY
            self._claims[key] = None  # no other thread of this process meanwhile
            never_ran = self._never_ran.pop(key, [])
        claim: InboxClaim | ClaimRefusal | None = None
        try:
            claim = open_claim(
                self._sessions.open(),
                key,
                token,
                now=self._clock.now(),
                lease_seconds=lease_seconds,
                never_ran=never_ran,
            )
        finally:
            with self._lock:
                if isinstance(claim, InboxClaim):
                    self._claims[key] = claim
                else:
                    del self._claims[key]
                if claim is None and len(self._never_ran) < _MOST_NEVER_RAN:
                    self._never_ran[key] = [*never_ran, token][:_MOST_TOKENS]
        return claim

    def complete(self, claimed: Claimed) -> bool:
        """Commit the listener's work with the mark, as ``InboxClaim`` does; return False if nothing was committed.

        Raises:
            DeduplicationError: the result of the commit is unknown: try again.
            ConfigurationError: the listener ended the transaction itself; abandon the claim.
            SQLAlchemyError: the database refused the listener's work; abandon the claim.
        """
        claim = self._held(claimed)
        if claim is None or claim.is_undecided:
            return self._find_out(claimed)
        is_marked = claim.commit(self._clock.now())
        if not is_marked:
            logger.warning(
                "message %s was finished by another process meanwhile: this run is rolled back",
                claim.key.message_id,
            )
        self._let_go(claim)
        self._purge_now_and_then()
        return is_marked

    def give_up(self, claimed: Claimed) -> None:
        """End the listener's use of the session, and the statement it waits for."""
        claim = self._held(claimed)
        if claim is not None:
            claim.give_up()

    def abandon(self, claimed: Claimed, *, began: bool = True) -> bool:
        """Roll back the listener's work, then release the message."""
        claim = self._held(claimed)
        if claim is None:
            return False
        self._let_go(claim)
        self._give_back(claim, began=began)
        return True

    def forget_attempts(self, key: DeduplicationKey) -> None:
        """Delete the row of the attempts."""
        self._sessions.run(
            "forget attempts", lambda connection: inbox_statements.forget_attempts(connection, key)
        )

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        """Return True if the transaction is open: no other claim is possible then."""
        return self._held(claimed) is not None

    def check(self) -> None:
        """Raise ``DeduplicationError`` while the database is unavailable, or has no table of marks."""
        self._sessions.run("look for the inbox", inbox_statements.check_tables)

    def purge(self) -> int:
        """Delete the marks and attempts that are older than the retention; return their number.

        It blocks until all are deleted. Each thousand is a separate transaction.

        Raises:
            DeduplicationError: the database is unavailable.
        """
        deleted = 0
        while True:
            marks, attempts = self._purge_batch()
            deleted += marks + attempts
            if max(marks, attempts) < _PURGE_BATCH:
                return deleted

    def _purge_batch(self) -> tuple[int, int]:
        before = self._clock.now() - self._retention
        return self._sessions.run(
            "delete old marks",
            lambda connection: inbox_statements.delete_old(connection, before, _PURGE_BATCH),
        )

    def _purge_now_and_then(self) -> None:
        with self._lock:
            is_due = self._completions % _PURGE_EVERY == 0
            self._completions += 1
        if is_due:
            try:
                self._purge_batch()
            except DeduplicationError as error:  # the message is done; old marks do no harm
                logger.warning("%s", error)

    def _find_out(self, claimed: Claimed) -> bool:
        """Return True if the completion of this claim is in the table."""
        mark = self._sessions.run(
            "look for the mark", lambda connection: inbox_statements.find_mark(connection, claimed.key)
        )
        is_marked = mark == inbox_statements.digest_of(claimed.token)
        claim = self._held(claimed)
        if claim is not None:
            self._let_go(claim)
            if not is_marked:
                logger.warning(
                    "message %s lost its connection before the commit: what was done is rolled back, and it comes again",
                    claim.key.message_id,
                )
                self._give_back(claim, began=True)
        return is_marked

    def _held(self, claimed: Claimed) -> InboxClaim | None:
        held = self._claims.get(claimed.key)
        return held if held is not None and held.token == claimed.token else None

    def _let_go(self, claim: InboxClaim) -> None:
        try:
            claim.end()
        finally:
            with self._lock:
                self._claims.pop(claim.key, None)

    def _give_back(self, claim: InboxClaim, *, began: bool) -> None:
        self._sessions.run(
            "give the message back",
            lambda connection: inbox_statements.give_back(connection, claim.key, claim.token, began=began),
        )


# --- sessions ----------------------------------------------------------------------------------

MakeSession: TypeAlias = "Callable[[], Session] | Callable[[], AsyncSession]"


class _Sessions:
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
