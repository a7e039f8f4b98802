"""The bus of domain events, and the base class of events that are published on it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ParamSpec, TypeVar, overload

from melange.callables import place
from melange.domain.after_commit import ParkedSubscriber, Transactions, parked
from melange.domain.dispatch import Deferral, ErrorPolicy, Publishing
from melange.domain.groups import HandlerT, Registry, Subscribers
from melange.domain.subscriptions import (
    NO_ROUTES,
    DomainSubscriber,
    EventSubscription,
    Extension,
    Recorder,
    Routes,
)
from melange.domain.thread_state import Drain, Local, OnCommit, ScopeBlock, drain_inside
from melange.errors import ConfigurationError, HandlerNotFoundError
from melange.events import Occurrence

P = ParamSpec("P")
R = TypeVar("R")


class DomainEventBus(Publishing, Registry):
    """Publishes events to the subscribers of the current thread, or asyncio task, in order of subscription.

    Each thread has its own subscribers, none at first. A task starts with those of the code that created it; later
    changes in one do not affect the other. ``docs/domain-events.md`` has the exact rule.

    ``cascade_limit`` is the limit of events that follow, directly or not, from one published event.
    """

    __slots__ = ()

    def __init__(self, *, cascade_limit: int = 10_000) -> None:
        super().__init__(cascade_limit)

    @staticmethod
    def instance() -> DomainEventBus:
        """Return the shared bus of the program; each thread still has its own subscribers."""
        return _INSTANCE

    @property
    def subscriptions(self) -> tuple[EventSubscription, ...]:
        """The subscriptions of this thread or task, in order."""
        return self._state.local().routes.subscriptions

    def unsubscribe(self, subscriber: DomainSubscriber | Callable[..., object]) -> None:
        """Remove a subscriber or function. Subscribing and unsubscribing take effect with the next event.

        Raises:
            HandlerNotFoundError: it is not subscribed in this thread or task.
        """
        routes = self._state.local().routes.without(subscriber)
        if routes is None:
            raise HandlerNotFoundError(f"{place(subscriber)} is not subscribed in this thread or task")
        self._replace_routes(routes)

    def reset(self) -> None:
        """Remove all subscribers of this thread or task. Call it at the start of a job in a thread that is used again.

        Raises:
            ConfigurationError: called by a subscriber, in the middle of a publish.
        """
        if self.is_publishing():
            raise ConfigurationError(
                "reset() during a publish would drop waiting events: call it before or after"
            )
        self._replace_routes(NO_ROUTES)

    def scope(self, *groups: Subscribers, on_commit: OnCommit | None = None) -> AbstractContextManager[None]:
        """Add these groups for a ``with`` block, and restore the previous state at its end.

        Unlike subscriptions it follows the context: code in ``asyncio.to_thread`` and in the thread pools of web
        frameworks also publishes to these groups. If it ends in another thread or task than it began in, it changes
        nothing there.

        Subscriptions and resets inside end with the block. A scope has its own queue: in a scope that a subscriber
        opens, events are handled at once. ``after_commit`` handlers wait with ``on_commit``, by default that of the
        outer scope.

        Raises:
            ConfigurationError: one of them is not a group.
        """
        for group in groups:
            if not isinstance(group, Subscribers):
                raise ConfigurationError(f"scope() opens groups, which are Subscribers(), not {group!r}")
        return self._state.inside(_OpenedGroups([group.extension for group in groups], on_commit))

    @contextmanager
    def recording(self) -> Iterator[list[object]]:
        """Yield a list of the events that are handled inside the ``with`` block, in order."""
        events: list[object] = []
        # A method of its own object, because recordings may be nested.
        recorder = Recorder(events, events.append, (), is_asynchronous=False)
        self._replace_routes(Routes((recorder, *self.subscriptions)))
        try:
            yield events
        finally:
            routes = self._state.local().routes.without(events)
            if routes is not None:  # it began here
                self._replace_routes(routes)

    def deferred(self, *, errors: ErrorPolicy = "raise") -> Deferral:
        """Hold events that are published in a ``with`` block until its end; if it raises, drop them.

        With ``async with`` the events are published with ``publish_async``. ``errors`` is for those publishes. Only
        events of the block's own thread or task are held, not those of child tasks and other threads.
        """
        return Deferral(self, errors)

    @overload
    def after_commit(
        self, handler: DomainSubscriber, *, on_commit: OnCommit | None = None
    ) -> DomainSubscriber: ...
    @overload
    def after_commit(self, handler: HandlerT, *, on_commit: OnCommit | None = None) -> HandlerT: ...
    def after_commit(
        self, handler: DomainSubscriber | HandlerT, *, on_commit: OnCommit | None = None
    ) -> DomainSubscriber | HandlerT:
        """Return a handler that runs after the commit of the current transaction, for each event.

        It does not run if the transaction is rolled back, or if the publish of the event fails. Without a transaction
        it runs when all other subscribers have handled the event and the events that followed from it.
        ``on_commit`` gives the transaction, by default that of the scope: ``django.db.transaction.on_commit``, or
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
        """Return a function that has the current subscribers when it is called in another thread.

        They run in that thread, so they must be safe there. Subscriptions inside the function end with it.

        Raises:
            ConfigurationError: it is a coroutine function; tasks have the subscribers without this.
        """
        if inspect.iscoroutinefunction(function):
            raise ConfigurationError(
                f"{place(function)} is asynchronous: leave carry() out, because a task starts with the current subscribers"
            )
        carried_subscribers = _CarriedSubscribers(self._state.local().routes)

        @functools.wraps(function)
        def carried(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._state.inside(carried_subscribers):
                return function(*args, **kwargs)

        return carried

    def _add(self, subscription: EventSubscription) -> None:
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
    """A scope with the subscribers of another thread or task."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    def inside(self, around: Local, block: ScopeBlock) -> Local:
        return around.inside(block, self._routes, Drain(), None)


_INSTANCE = DomainEventBus()


class DomainEvent(Occurrence):
    """An optional base class of domain events; any object can be published.

        @dataclass(frozen=True)
        class ProductAdded(DomainEvent):
            product_id: int
            name: str

    ``occurred_on`` is the time of creation, aware, in UTC. It takes no part in comparisons.
    """

    def emit(self, errors: ErrorPolicy = "raise") -> None:
        """Publish this event on ``DomainEventBus.instance()``; see ``publish``."""
        DomainEventBus.instance().publish(self, errors=errors)
