"""Handlers that wait for the transaction around them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from melange.callables import Handler, is_asynchronous, place
from melange.domain.publishing import OnCommit, explain, refuse_awaitable
from melange.domain.subscriber import DomainSubscriber
from melange.errors import ConfigurationError


def parked(handler: Handler, find_on_commit: Callable[[], OnCommit | None]) -> Handler:
    """Return a handler that has ``handler`` called when the transaction of the moment was committed.

    Raises:
        ConfigurationError: it is asynchronous; databases call back without awaiting.
    """
    if is_asynchronous(handler):
        raise ConfigurationError(
            f"{place(handler)} is asynchronous, and what runs after a commit is not awaited: make it a plain function"
        )

    @functools.wraps(handler)
    def park(event: object) -> None:
        on_commit = find_on_commit()
        if on_commit is None:
            _run(handler, event)
        else:
            on_commit(functools.partial(_run_explained, handler, event))

    return park


class ParkedSubscriber(DomainSubscriber):
    """A subscriber whose ``process`` waits for the commit."""

    def __init__(self, subscriber: DomainSubscriber, find_on_commit: Callable[[], OnCommit | None]) -> None:
        self._subscriber = subscriber
        self._park = parked(subscriber.process, find_on_commit)

    def process(self, event: Any) -> None:
        self._park(event)

    def listens_to(self) -> Sequence[type] | None:
        return self._subscriber.listens_to()


def _run(handler: Handler, event: object) -> None:
    result = handler(event)
    if result is not None:
        refuse_awaitable(handler, result)


def _run_explained(handler: Handler, event: object) -> None:
    # Later than its publish, so nobody else says which handler it was.
    try:
        _run(handler, event)
    except BaseException as error:
        explain(error, handler, event)
        raise
