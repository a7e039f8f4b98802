"""Handlers that wait for the commit of a transaction; on a SQLAlchemy session, ``sqlalchemy`` keeps them until then."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from melange.callables import Handler, hides_a_coroutine_function, place, refuse_awaitable
from melange.domain.dispatch import explain
from melange.domain.subscriptions import DomainSubscriber
from melange.domain.thread_state import OnCommit, State
from melange.errors import ConfigurationError

_PLAIN_ONLY = "databases call back without awaiting, so make it a plain function, which may start a task"


class Transactions:
    """Finds the transaction that a handler waits for, while the handler's event is being published."""

    def __init__(self, state: State, on_commit: OnCommit | None) -> None:
        self._state = state
        self._on_commit = on_commit

    def wait(self, handler: Handler, event: object) -> None:
        """Call the handler with the event after the commit, or at once without a transaction.

        It looks for the transaction after all other subscribers have handled the event and those that followed: a
        later subscriber may begin one by writing to the database.
        """
        local = self._state.local()
        on_commit = self._on_commit or local.on_commit
        if on_commit is None:
            _run(handler, event)
            return
        call = functools.partial(on_commit, functools.partial(_run_explained, handler, event))
        if local.drain.is_busy and not local.drain.holds:
            local.drain.add_afterwards(call)
        else:  # called directly, not by the bus
            call()


def parked(handler: Handler, transactions: Transactions) -> Handler:
    """Return a handler that calls ``handler`` after the commit of the current transaction.

    Raises:
        ConfigurationError: it is asynchronous; databases call back without awaiting.
    """
    if hides_a_coroutine_function(handler):
        raise ConfigurationError(
            f"{place(handler)} is asynchronous, and what runs after a commit is not awaited: {_PLAIN_ONLY}"
        )

    @functools.wraps(handler)
    def park(event: object) -> None:
        transactions.wait(handler, event)

    return park


class ParkedSubscriber(DomainSubscriber):
    """A subscriber with a ``process`` that waits for the commit."""

    def __init__(self, subscriber: DomainSubscriber, transactions: Transactions) -> None:
        self._subscriber = subscriber
        self._park = parked(subscriber.process, transactions)

    def process(self, event: Any) -> None:
        self._park(event)

    def listens_to(self) -> Sequence[type] | None:
        return self._subscriber.listens_to()


def _run(handler: Handler, event: object) -> None:
    result = handler(event)
    if result is not None:
        refuse_awaitable(handler, result, _PLAIN_ONLY)


def _run_explained(handler: Handler, event: object) -> None:
    # This is later than its publish, which would have named the handler.
    try:
        _run(handler, event)
    except BaseException as error:
        explain(error, handler, event)
        raise
