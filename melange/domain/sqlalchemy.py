"""``after_commit`` handlers on SQLAlchemy sessions, savepoints included."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from melange.domain.state import OnCommit
from melange.errors import ConfigurationError

if TYPE_CHECKING:  # importing it needs greenlet, which only those have to have who use it
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import scoped_session

AnySession: TypeAlias = "Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]"
_Call = Callable[[], None]

_INFO_KEY = "melange.domain.parked"


def on_commit(session: AnySession) -> OnCommit:
    """Return what ``scope`` and ``after_commit`` take as ``on_commit``, for this session.

    Calls made in a savepoint are forgotten when it is rolled back. The others are made when the outermost
    transaction has ended with a commit, in order, in the code that commits: all of them, whatever one raises.
    The data is safe by then. The session is free for a next transaction, but where ``with session.begin():``
    commits: SQLAlchemy refuses to use it before that block's end, so take another session there. With an
    ``AsyncSession`` the calls block the event loop.
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
    """Return the synchronous session that is behind this one, at this moment.

    Raises:
        ConfigurationError: it is no session.
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

    SQLAlchemy's ``after_commit`` comes too early, and for savepoints too: it says how a transaction ended.
    ``after_transaction_end`` says when.
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
    """Return the savepoint or outermost transaction around; what a flush opens is neither."""
    outer = transaction.parent
    while outer is not None and outer.parent is not None and not outer.nested:
        outer = outer.parent
    return outer


def _make(calls: list[_Call]) -> None:
    failures: list[Exception] = []
    for call in calls:
        try:
            call()
        except Exception as error:  # raised below; the others were promised a call too
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise ExceptionGroup(f"{len(failures)} handlers failed after the commit, which stands", failures)
