"""The inbox: a deduplication store whose marks are part of the listener's own transaction."""

from __future__ import annotations

import logging
import math
import threading
from datetime import timedelta

from melange.clock import Clock, SystemClock
from melange.deduplication.base import (
    DEFAULT_RETENTION_SECONDS,
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
    RunCoroutine,
)
from melange.errors import ConfigurationError, DeduplicationError
from melange.outbox import inbox_marks
from melange.outbox.inbox_marks import told
from melange.outbox.inbox_transaction import InboxClaim, MakeSession, Sessions

logger = logging.getLogger(__name__)

_PURGE_EVERY = 500
"""Completions between two purges; each deletes up to twice as many, so that none is left behind for long."""
_PURGE_BATCH = 1_000


class Inbox(DeduplicationStore):
    """Marks kept in the database that the listeners write to, each in its listener's own transaction.

    What a listener does with the ``session`` that it is given is committed together with the mark, once it has
    returned: both are there or neither is. ``make_session`` is a ``sessionmaker``, or any callable that returns a new
    ``Session`` each time; with an ``async_sessionmaker`` the listeners are asynchronous and get an ``AsyncSession``,
    on the event loop of one worker. A listener must not commit, roll back or close it; what may fail on its own goes
    into ``session.begin_nested()``.

    Each delivery at work holds one connection: the engine's pool has to allow the worker's ``concurrency``. The
    table ``melange_inbox`` has to be there. On PostgreSQL a message that another process has at work is found
    out before its listener runs; elsewhere at the latest when it has run, and then it is rolled back. A claim
    lasts as long as its transaction, whatever becomes of its lease.

    Marks older than ``retention_seconds`` are deleted bit by bit along with completions; ``purge`` does it at once.
    Thread-safe.

    Raises:
        ConfigurationError: ``make_session`` or ``retention_seconds`` can't be used.
    """

    keyword_names = ("session",)

    def __init__(
        self,
        make_session: MakeSession,
        *,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        if not 0 < retention_seconds < math.inf:
            raise ConfigurationError(f"retention_seconds has to be above 0, not {retention_seconds!r}")
        self._sessions = Sessions(make_session)
        self.listeners_are_async = self._sessions.are_async
        self._retention = timedelta(seconds=retention_seconds)
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._in_hand: dict[DeduplicationKey, InboxClaim] = {}
        self._completions = 0

    def use_event_loop(self, run_coroutine: RunCoroutine) -> None:
        """Work with asynchronous sessions on that event loop.

        Raises:
            ConfigurationError: they work on another one already.
        """
        self._sessions.use_event_loop(run_coroutine)

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        """Open the transaction in which the listener will work; ``lease_seconds`` have no meaning here."""
        with self._lock:
            held = self._in_hand.get(key)
            if held is not None:
                return held if held.token == token else ClaimRefusal.BUSY
            claim = self._in_hand[key] = InboxClaim(key, token)
        refusal: ClaimRefusal | None = None
        is_open = False
        try:
            with told("claim the message"):
                refusal = claim.begin(self._sessions.open())
            is_open = refusal is None
        finally:
            if not is_open:
                self._let_go(claim)
        return refusal or claim

    def complete(self, claimed: Claimed) -> bool:
        """Commit what the listener did, with the mark; False when nothing of it was.

        Raises:
            DeduplicationError: nobody knows yet what became of it: ask again.
            ConfigurationError: the listener ended the transaction itself; the claim is to be abandoned.
            SQLAlchemyError: the database refused what the listener did; the claim is to be abandoned.
        """
        claim = self._held(claimed)
        if claim is None or claim.is_undecided:
            return self._find_out(claimed)
        is_marked = claim.commit(self._clock.now())
        if not is_marked:
            logger.warning(
                "message %s was finished by somebody else meanwhile: what was done here is rolled back",
                claim.key.message_id,
            )
        self._let_go(claim)
        self._purge_now_and_then()
        return is_marked

    def forget_attempts(self, key: DeduplicationKey) -> None:
        """Forget the attempts."""

    def abandon(self, claimed: Claimed, *, began: bool = True) -> bool:
        """Roll back what the listener did."""
        claim = self._held(claimed)
        if claim is not None:
            self._let_go(claim)
        return claim is not None

    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        """Return whether the transaction is open: nobody else can have the claim then."""
        return self._held(claimed) is not None

    def check(self) -> None:
        """Raise ``DeduplicationError`` while the database can't be asked, or has no table of marks."""
        with told("look for the inbox"):
            self._sessions.run(inbox_marks.look)

    def purge(self) -> int:
        """Delete the marks that are older than the retention and return how many it were.

        It blocks until the last is gone. Each thousand goes in a transaction of its own.

        Raises:
            DeduplicationError: the database could not be asked.
        """
        deleted = batch = self._purge_batch()
        while batch == _PURGE_BATCH:
            batch = self._purge_batch()
            deleted += batch
        return deleted

    def _purge_batch(self) -> int:
        old = self._clock.now() - self._retention
        with told("delete old marks"):
            return self._sessions.run(
                lambda session: inbox_marks.delete_done_before(session, old, _PURGE_BATCH)
            )

    def _purge_now_and_then(self) -> None:
        with self._lock:
            is_due = self._completions % _PURGE_EVERY == 0
            self._completions += 1
        if is_due:
            try:
                self._purge_batch()
            except DeduplicationError as error:  # the message is done; old marks harm nobody
                logger.warning("%s", error)

    def _find_out(self, claimed: Claimed) -> bool:
        """Return whether the completion of this claim is in the table."""
        with told("look for the mark"):
            mark = self._sessions.run(
                lambda session: inbox_marks.find(inbox_marks.connection_of(session), claimed.key)
            )
        is_marked = mark == inbox_marks.digest_of(claimed.token)
        claim = self._held(claimed)
        if claim is not None:
            self._let_go(claim)
            if not is_marked:
                logger.warning(
                    "message %s lost its connection before the commit: what was done is rolled back, and it comes again",
                    claim.key.message_id,
                )
        return is_marked

    def _held(self, claimed: Claimed) -> InboxClaim | None:
        held = self._in_hand.get(claimed.key)
        return held if held is not None and held.token == claimed.token else None

    def _let_go(self, claim: InboxClaim) -> None:
        try:
            claim.end()
        finally:
            with self._lock:
                self._in_hand.pop(claim.key, None)
