"""Carries domain events between the objects of one thread."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar, overload

from melange.callables import place
from melange.domain.groups import HandlerT, Registry, Subscribers
from melange.domain.publishing import Deferral, Drain, ErrorPolicy, Local, OnCommit, Publishing
from melange.domain.routes import NO_ROUTES, Routes, extended
from melange.domain.subscriber import DomainSubscriber, Recorder, Subscription
from melange.domain.transactions import ParkedSubscriber, parked
from melange.errors import ConfigurationError, HandlerNotFoundError

P = ParamSpec("P")
R = TypeVar("R")


class DomainEventBus(Publishing, Registry):
    """Hands events to the subscribers of the current thread, or asyncio task, in order of subscription.

    Each thread has its own subscribers, none at first, however it was started. A task starts with those of
    the code that made it; what either changes later is its own. ``docs/domain-events.md`` has the exact rule.

    ``cascade_limit`` is how many events may follow, directly or not, from one that is published.
    """

    __slots__ = ()

    def __init__(self, *, cascade_limit: int = 10_000) -> None:
        super().__init__(cascade_limit)

    @staticmethod
    def instance() -> DomainEventBus:
        """Return the bus that the whole program shares; its subscribers are still each thread's own."""
        return _INSTANCE

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The subscriptions of this thread or task, in order."""
        return self._here.get().routes.subscriptions

    def unsubscribe(self, subscriber: DomainSubscriber | Callable[..., object]) -> None:
        """Take a subscriber or function away; subscribing and this take effect with the next event.

        Raises:
            HandlerNotFoundError: it is not subscribed in this thread or task.
        """
        routes = self._here.get().routes.without(subscriber)
        if routes is None:
            raise HandlerNotFoundError(f"{place(subscriber)} is not subscribed in this thread or task")
        self._replace_routes(routes)

    def reset(self) -> None:
        """Take all subscribers of this thread or task away: what a job does first in a thread that had another.

        Raises:
            ConfigurationError: called by a subscriber, in the middle of a publish.
        """
        if self.is_publishing():
            raise ConfigurationError(
                "reset() during a publish would drop events that wait: call it before or after"
            )
        self._replace_routes(NO_ROUTES)

    @contextmanager
    def scope(self, *groups: Subscribers, on_commit: OnCommit | None = None) -> Iterator[None]:
        """Add these groups for the length of a ``with`` block, after which all is as it was before it.

        What is subscribed or reset inside ends with the block too. It publishes on its own: in a scope that a
        subscriber opens, events are handled at once. ``on_commit`` is what ``after_commit`` handlers wait by,
        by default that of the scope around.

        Raises:
            ConfigurationError: one of them is no group.
        """
        added: tuple[Subscription, ...] = ()
        for group in groups:
            if not isinstance(group, Subscribers):
                raise ConfigurationError(f"scope() opens groups, which are Subscribers(), not {group!r}")
            added += group.subscriptions
        local = self._here.get()
        routes = extended(local.routes, added) if added else local.routes
        # Events that are held back stay so; a publish around, on the other hand, is not this scope's.
        drain = local.drain if local.drain.holds else Drain(local.drain)
        with self._replaced(Local(routes, drain, on_commit or local.on_commit)):
            yield

    @contextmanager
    def recording(self) -> Iterator[list[object]]:
        """Yield the list of the events that subscribers are given inside the ``with`` block, in that order."""
        events: list[object] = []
        # A method of its own object: recordings may be nested.
        recorder = Recorder(events, events.append, (), is_asynchronous=False)
        self._replace_routes(Routes((recorder, *self.subscriptions)))
        try:
            yield events
        finally:
            self._replace_routes(self._here.get().routes.without(events) or self._here.get().routes)

    def deferred(self, *, errors: ErrorPolicy = "raise") -> Deferral:
        """Hold what is published in a ``with`` block until it has ended well; if it raises, drop it.

        With ``async with`` the events are published as ``publish_async`` does. ``errors`` is for those publishes.
        """
        return Deferral(self._here, errors, self._publish_all, self._publish_all_async)

    @overload
    def after_commit(
        self, handler: DomainSubscriber, *, on_commit: OnCommit | None = None
    ) -> DomainSubscriber: ...
    @overload
    def after_commit(self, handler: HandlerT, *, on_commit: OnCommit | None = None) -> HandlerT: ...
    def after_commit(
        self, handler: DomainSubscriber | HandlerT, *, on_commit: OnCommit | None = None
    ) -> DomainSubscriber | HandlerT:
        """Return the handler such that, for each event, it runs once the transaction around was committed.

        It never runs if that is rolled back, and runs at once where there is none. ``on_commit`` knows the
        transaction, by default the one that the scope was given: ``django.db.transaction.on_commit``, or
        ``melange.domain.sqlalchemy.on_commit(session)``.

        Raises:
            ConfigurationError: it is asynchronous.
        """

        def find_on_commit() -> OnCommit | None:
            return on_commit or self._here.get().on_commit

        if isinstance(handler, DomainSubscriber):
            return ParkedSubscriber(handler, find_on_commit)
        return parked(handler, find_on_commit)  # type: ignore[return-value]  # takes what the handler takes

    def carry(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function such that, called in another thread, it has the subscribers of here and now.

        They run in that thread: they must bear it. What the function subscribes ends with it.

        Raises:
            ConfigurationError: it is a coroutine function; tasks have the subscribers without this.
        """
        if inspect.iscoroutinefunction(function):
            raise ConfigurationError(
                f"{place(function)} is asynchronous: tasks start with the subscribers anyway"
            )
        routes = self._here.get().routes

        @functools.wraps(function)
        def carried(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._replaced(Local(routes, Drain())):
                return function(*args, **kwargs)

        return carried

    def _add(self, subscription: Subscription) -> None:
        self._replace_routes(Routes((*self.subscriptions, subscription)))

    def _replace_routes(self, routes: Routes) -> None:
        local = self._here.get()
        self._here.set(Local(routes, local.drain, local.on_commit))

    @contextmanager
    def _replaced(self, inside: Local) -> Iterator[None]:
        outside = self._here.get()
        self._here.set(inside)
        try:
            yield
        finally:
            # By value: the token of a context variable is refused in any context but the one that made it.
            self._here.set(outside)


_INSTANCE = DomainEventBus()
