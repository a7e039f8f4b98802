"""Carries domain events between the objects of one thread."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ParamSpec, TypeVar, overload

from melange.callables import place
from melange.domain.deferral import Deferral, ErrorPolicy
from melange.domain.drain import Drain
from melange.domain.groups import HandlerT, Registry, Subscribers
from melange.domain.publishing import Publishing
from melange.domain.routes import NO_ROUTES, Extension, Routes
from melange.domain.state import Local, OnCommit, ScopeBlock, drain_inside
from melange.domain.subscriber import DomainSubscriber, Recorder, Subscription
from melange.domain.transactions import ParkedSubscriber, Transactions, parked
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
        return self._state.local().routes.subscriptions

    def unsubscribe(self, subscriber: DomainSubscriber | Callable[..., object]) -> None:
        """Take a subscriber or function away; subscribing and this take effect with the next event.

        Raises:
            HandlerNotFoundError: it is not subscribed in this thread or task.
        """
        routes = self._state.local().routes.without(subscriber)
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

    def scope(self, *groups: Subscribers, on_commit: OnCommit | None = None) -> AbstractContextManager[None]:
        """Add these groups for the length of a ``with`` block, after which all is as it was before it.

        Unlike subscriptions it follows the context: also what ``asyncio.to_thread`` and the thread pools of web
        frameworks run inside publishes to these groups. It may end in another thread or task than it began in,
        where it then changes nothing.

        What is subscribed or reset inside ends with the block too. It publishes on its own: in a scope that a
        subscriber opens, events are handled at once. ``on_commit`` is what ``after_commit`` handlers wait by,
        by default that of the scope around.

        Raises:
            ConfigurationError: one of them is no group.
        """
        for group in groups:
            if not isinstance(group, Subscribers):
                raise ConfigurationError(f"scope() opens groups, which are Subscribers(), not {group!r}")
        return self._state.inside(_OpenedGroups([group.extension for group in groups], on_commit))

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
            routes = self._state.local().routes.without(events)
            if routes is not None:  # it began here
                self._replace_routes(routes)

    def deferred(self, *, errors: ErrorPolicy = "raise") -> Deferral:
        """Hold what is published in a ``with`` block until it has ended well; if it raises, drop it.

        With ``async with`` the events are published as ``publish_async`` does. ``errors`` is for those publishes.
        It is for the thread or task of the block: what its child tasks and other threads publish is not held.
        """
        return Deferral(self._state, errors, self._publish_all, self._publish_all_async)

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

        It never runs if that is rolled back, nor if the publish of the event fails; where there is none it runs
        when all other subscribers have handled the event, and what followed from it. ``on_commit`` knows the
        transaction, by default the one that the scope was given: ``django.db.transaction.on_commit``, or
        ``melange.domain.sqlalchemy.on_commit(session)``.

        Raises:
            ConfigurationError: it is asynchronous. Databases call back without awaiting: a plain function may
                start a task.
        """
        transactions = Transactions(self._state, on_commit)
        if isinstance(handler, DomainSubscriber):
            return ParkedSubscriber(handler, transactions)
        return parked(handler, transactions)  # type: ignore[return-value]  # takes what the handler takes

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
        carried_subscribers = _CarriedSubscribers(self._state.local().routes)

        @functools.wraps(function)
        def carried(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._state.inside(carried_subscribers):
                return function(*args, **kwargs)

        return carried

    def _add(self, subscription: Subscription) -> None:
        self._replace_routes(Routes((*self.subscriptions, subscription)))

    def _replace_routes(self, routes: Routes) -> None:
        self._state.become(self._state.local().with_routes(routes))


class _OpenedGroups:
    """A scope that adds groups."""

    def __init__(self, extensions: list[Extension], on_commit: OnCommit | None) -> None:
        self._extensions = extensions
        self._on_commit = on_commit

    def inside(self, around: Local, block: ScopeBlock) -> Local:
        routes = around.routes
        for extension in self._extensions:
            routes = extension.of(routes)
        return around.inside(block, routes, drain_inside(around), self._on_commit or around.on_commit)


class _CarriedSubscribers:
    """A scope with the subscribers of somewhere else."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    def inside(self, around: Local, block: ScopeBlock) -> Local:
        return around.inside(block, self._routes, Drain(), None)


_INSTANCE = DomainEventBus()
