"""The listeners of a consumer: subscribed, unsubscribed, and found by the type of an event."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Concatenate, TypeVar, overload

from melange.consuming.listener import (
    EventType,
    ExchangeListener,
    Subscription,
    listener_name,
    subscription_for,
)
from melange.consuming.time_limit import TimeLimits
from melange.deduplication.base import DeduplicationStore
from melange.errors import ConfigurationError, DuplicateHandlerError, HandlerNotFoundError
from melange.events import EventMessage
from melange.serialization.serializer import EventSerializer

ListenerFunction = TypeVar("ListenerFunction", bound=Callable[..., object])
EventT = TypeVar("EventT", bound=EventMessage)
Result = TypeVar("Result")


class Subscriptions:
    """The listeners of a consumer, and those that accept an event. Thread-safe.

    Readers work on tuples and dicts that are replaced, never changed. ``all`` is in order of subscription;
    ``need_event_loop`` is True if one of them is asynchronous, ``are_all_async`` if each is. ``known`` is a cache for
    ``accepting``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.all: tuple[Subscription, ...] = ()
        self.need_event_loop = self.are_all_async = False
        self.known: dict[str, tuple[Subscription, ...]] = {}
        self._of_everything: tuple[Subscription, ...] | None = None

    def add(self, subscription: Subscription) -> None:
        """Add a listener, last in order.

        Raises:
            DuplicateHandlerError: its name is taken.
        """
        with self._lock:
            if any(other.name == subscription.name for other in self.all):
                raise DuplicateHandlerError(
                    f"a listener named {subscription.name!r} is subscribed already. What a listener has finished is "
                    "remembered under its name: give each its own, as the class attribute `name` or as "
                    "@consumer.listener(..., name='...')"
                )
            self._replace((*self.all, subscription))

    def remove(self, listener: object) -> bool:
        """Remove a listener object or function; return False if it is not subscribed."""
        with self._lock:
            kept = tuple(other for other in self.all if not _is_same(other.listener, listener))
            removed = len(kept) < len(self.all)
            self._replace(kept)
            return removed

    def accepting(self, event_type_name: str) -> tuple[Subscription, ...]:
        """Return the listeners that accept events of this type, in order of subscription."""
        # Read before the subscriptions: a result from old ones must not outlive them.
        remembered = self.known
        known = self._of_everything or remembered.get(event_type_name)
        if known is not None:
            return known
        accepting = tuple(one for one in self.all if one.accepts(event_type_name))
        # Only types that a listener names are remembered: strangers could send any number of type names.
        if any(event_type_name in one.event_type_names for one in accepting):
            remembered[event_type_name] = accepting
        return accepting

    def _replace(self, subscriptions: tuple[Subscription, ...]) -> None:
        self.all = subscriptions
        self.need_event_loop = any(one.is_async for one in subscriptions)
        self.are_all_async = all(one.is_async for one in subscriptions)
        self._of_everything = None if any(one.event_type_names for one in subscriptions) else subscriptions
        self.known = {}


def _is_same(one: object, other: object) -> bool:
    # A bound method is a new object each time that it is looked up.
    return one is other or (isinstance(one, types.MethodType) and one == other)


class ListenerRegistry:
    """Subscribes the listeners of one queue: the base of consumers.

    Listeners may be added and removed at any time from any thread. ``concurrency`` is how many deliveries of the queue
    run at once: a batch listener waits for no more events.
    """

    def __init__(
        self,
        queue_name: str,
        serializer: EventSerializer,
        store: DeduplicationStore | None,
        time_limits: TimeLimits,
    ) -> None:
        self.subscriptions = Subscriptions()
        self.serializer = serializer
        self.store = store
        self.time_limits = time_limits
        self.concurrency = 1
        self._queue_name = queue_name
        self._store_keywords = () if store is None else store.keyword_names

    def subscribe(self, listener: ExchangeListener) -> None:
        """Add a listener, to be run after those that are there.

        Raises:
            ConfigurationError: it is not a listener, or asks for something that does not exist.
            DuplicateHandlerError: a listener of this name is there already.
        """
        if not isinstance(listener, (ExchangeListener, type)):
            raise ConfigurationError(
                f"{listener!r} is not an ExchangeListener; a function is subscribed with "
                "@consumer.listener('EventTypeName')"
            )
        self._add(subscription_for(listener, store_keywords=self._store_keywords))

    def unsubscribe(self, listener: object) -> None:
        """Remove a listener object, or a function that was subscribed with ``listener``.

        Raises:
            HandlerNotFoundError: it is not subscribed.
        """
        if not self.subscriptions.remove(listener):
            raise HandlerNotFoundError(f"{listener!r} is not subscribed to queue {self._queue_name}")

    @overload  # a function for one class takes that class
    def listener(  # type: ignore[overload-overlap]
        self, event_type: type[EventT], /, *, name: str | None = ..., timeout_seconds: float | None = ...
    ) -> Callable[
        [Callable[Concatenate[EventT, ...], Result]], Callable[Concatenate[EventT, ...], Result]
    ]: ...

    @overload
    def listener(
        self, *event_types: EventType, name: str | None = ..., timeout_seconds: float | None = ...
    ) -> Callable[[ListenerFunction], ListenerFunction]: ...

    def listener(
        self, *event_types: EventType, name: str | None = None, timeout_seconds: float | None = None
    ) -> Callable[[Any], Any]:
        """Subscribe the decorated function for these event types, for all when there are none.

        ``@consumer.listener("ProductAdded")``; the function, or another callable, takes what ``ExchangeListener.process``
        may. Its ``__qualname__`` is the listener's stable name unless ``name`` gives another. ``timeout_seconds`` limits
        one run.
        """
        if any(callable(one) and not isinstance(one, type) for one in event_types):
            raise ConfigurationError(
                "write @consumer.listener() with parentheses; event types go inside them"
            )

        def subscribe(function: ListenerFunction) -> ListenerFunction:
            self._add(
                subscription_for(
                    function,
                    event_types,
                    name=name,
                    timeout_seconds=timeout_seconds,
                    store_keywords=self._store_keywords,
                )
            )
            return function

        return subscribe

    def batch_listener(
        self,
        *event_types: EventType,
        max_events: int = 100,
        max_seconds: float = 1.0,
        name: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Callable[[ListenerFunction], ListenerFunction]:
        """Subscribe the decorated function for lists of events, for bulk inserts: ``@consumer.batch_listener(...)``.

        It takes a list of events, and their ``message_ids`` if it has such a parameter; it may be ``async def``. With an
        inbox of asynchronous sessions an ``async def`` function may have the parameter ``sessions``: one for each
        event, with the transaction that has the event's mark. It needs a worker, and a batch never has more events than
        the worker runs at once: set its ``concurrency`` to ``max_events``. Each event has its own claim, mark and
        attempts. If the function raises, all of its events have failed, or with ``PartialFailure`` those that it names.
        A batch has one event of a FIFO group at most, so the order is kept.

        Args:
            event_types: as for ``listener``.
            max_events: the most events of a batch.
            max_seconds: how long a batch waits for more events, from its first one on.
            name: as for ``listener``.
            timeout_seconds: the limit of one run, with the wait for other events.
        """
        # It brings asyncio, which plain listeners do without.
        from melange.consuming.batch_listeners import BatchListener  # noqa: PLC0415

        def subscribe(function: ListenerFunction) -> ListenerFunction:
            if self.store is not None and self.store.listeners_are_async is False:
                raise ConfigurationError(
                    f"batch listener {name or listener_name(function)} needs an inbox of asynchronous sessions, "
                    "Inbox(async_sessionmaker(...)): its events wait for each other on an event loop"
                )
            batches = BatchListener(
                function,
                max_events=max_events,
                max_seconds=max_seconds,
                concurrency=lambda: self.concurrency,
                give_up=self.time_limits.give_up,
            )
            subscription = subscription_for(
                batches.listener,
                event_types,
                name=name or listener_name(function),
                timeout_seconds=timeout_seconds,
                store_keywords=self._store_keywords,
            )
            self._add(replace(subscription, listener=function))
            return function

        return subscribe

    def _add(self, subscription: Subscription) -> None:
        store = self.store
        if store is not None and store.listeners_are_async not in (None, subscription.is_async):
            raise ConfigurationError(
                f"listener {subscription.name} must {'not ' if subscription.is_async else ''}be `async def`: "
                f"{type(store).__name__} works with {'a synchronous' if subscription.is_async else 'an asynchronous'} "
                "session here"
            )
        for event_class in subscription.event_classes.values():
            self.serializer.check_event_class(event_class)
        self.subscriptions.add(subscription)
