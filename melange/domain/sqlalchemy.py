"""``after_commit`` handlers on SQLAlchemy sessions, savepoints included."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from melange.domain.thread_state import OnCommit
from melange.errors import ConfigurationError

if TYPE_CHECKING:  # importing it needs greenlet, which only asynchronous programs need
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import scoped_session

AnySession: TypeAlias = "Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]"
_Call = Callable[[], None]

_INFO_KEY = "melange.domain.parked"


def on_commit(session: AnySession) -> OnCommit:
    """Return the ``on_commit`` of this session, for ``scope`` and ``after_commit``.

    Calls of a savepoint are dropped if it is rolled back. The others are made after the commit of the outermost
    transaction, in order, in the code that commits. All of them are made, even if one raises. The data is safe by
    then. The session can be used for the next transaction, except where ``with session.begin():`` commits: SQLAlchemy
    refuses it before the end of that block, so use another session there. With an ``AsyncSession`` the calls block
    the event loop.
    """
    return functools.partial(_park, session)


def _park(session: AnySession, call: _Call) -> None:
    plain = plain_session(session)
    transaction = plain.get_nested_transaction() or plain.get_transaction()
    if transaction is None:
        call()
        return
    parked = plain.info.get(_INFO_KEY)
    if parked is None:
        parked = plain.info[_INFO_KEY] = _Parked(plain)
    parked.add(transaction, call)


def plain_session(session: AnySession) -> Session:
    """Return the current synchronous session behind this one.

    Raises:
        ConfigurationError: it is not a session.
    """
    current: Any = session
    if hasattr(session, "registry"):  # a scoped one: that of the scope
        current = current()
    plain = getattr(current, "sync_session", current)
    if not isinstance(plain, Session):
        raise ConfigurationError(
            f"this takes a Session, an AsyncSession or a scoped one, not {type(session).__name__}: Session(engine)"
        )
    return plain


class _Parked:
    """The calls that wait for the transactions of one session.

    SQLAlchemy's ``after_commit`` comes too early, and for savepoints too: it only records that a transaction committed.
    The calls are made at ``after_transaction_end``.
    """

    def __init__(self, session: Session) -> None:
        self._calls: dict[SessionTransaction, list[_Call]] = {}
        self._committed: SessionTransaction | None = None
        event.listen(session, "after_commit", self._on_commit)
        event.listen(session, "after_transaction_end", self._on_end)

    def add(self, transaction: SessionTransaction, call: _Call) -> None:
        self._calls.setdefault(transaction, []).append(call)

    def _on_commit(self, session: Session) -> None:
        self._committed = session.get_nested_transaction() or session.get_transaction()

    def _on_end(self, session: Session, transaction: SessionTransaction) -> None:
        calls = self._calls.pop(transaction, [])
        if transaction is not self._committed:
            return
        self._committed = None
        outer = _enclosing(transaction)
        if outer is None:
            _make(calls)
        elif calls:
            self._calls.setdefault(outer, []).extend(calls)


def _enclosing(transaction: SessionTransaction) -> SessionTransaction | None:
    """Return the current savepoint or outermost transaction; the transaction of a flush is neither."""
    outer = transaction.parent
    while outer is not None and outer.parent is not None and not outer.nested:
        outer = outer.parent
    return outer


def _make(calls: list[_Call]) -> None:
    failures: list[Exception] = []
    for call in calls:
        try:
            call()
        except Exception as error:  # raised below; the others must be called too
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise ExceptionGroup(
            f"{len(failures)} handlers failed after the commit, which stays in effect", failures
        )
