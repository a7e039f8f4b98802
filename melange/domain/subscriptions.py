"""Subscribers of domain events, checked when they are subscribed, and the handlers of each class of event.

The handlers are computed once per class of event, then found by one dictionary look-up.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import BuiltinMethodType, MethodType
from typing import Any, ClassVar
from weakref import WeakSet, ref

from melange.callables import (
    Handler,
    annotated_types,
    check_takes_one,
    classes_of,
    is_asynchronous,
    place,
    qualified_name,
)
from melange.errors import ConfigurationError


class DomainSubscriber(ABC):
    """Reacts to domain events. Subclasses need not call ``super().__init__()``."""

    @abstractmethod
    def process(self, event: Any) -> Awaitable[None] | None:
        """React to one event. Exceptions reach the publisher.

        It may be an ``async def``: its events then need ``publish_async``.
        """

    def listens_to(self) -> Sequence[type] | None:
        """Return the classes to react to, subclasses included; None or empty for every event.

        Called once, when the subscriber is subscribed.
        """
        return None


@dataclass(frozen=True, slots=True, eq=False)
class EventSubscription:
    """A subscription: ``handle`` is called with each event of ``event_types``, empty for all."""

    subscriber: object
    handle: Handler
    event_types: tuple[type, ...]
    is_asynchronous: bool

    @property
    def name(self) -> str:
        """The dotted name of the function, or of the subscriber's class."""
        return qualified_name(self.subscriber)

    def accepts(self, event_type: type) -> bool:
        """Return True if it accepts events of exactly this class."""
        return not self.event_types or issubclass(event_type, self.event_types)

    @property
    def identity(self) -> object:
        """A key that is equal only for subscriptions of the same subscriber or function."""
        return identity_of(self.subscriber)


class Recorder(EventSubscription):
    """Records every event."""

    __slots__ = ()


def identity_of(subscriber: object) -> object:
    """Return a key that is unique for this subscriber or function, independent of its ``__eq__``."""
    if isinstance(subscriber, (MethodType, BuiltinMethodType)):  # a new object each time it is looked up
        return (id(subscriber.__self__), getattr(subscriber, "__func__", subscriber.__name__))
    return id(subscriber)


def event_subscription_for(subscriber: object, event_types: Sequence[object] = ()) -> EventSubscription:
    """Return the subscription of a subscriber or function, after checks.

    Without ``event_types``, the annotation of a function's first parameter gives the events.

    Raises:
        ConfigurationError: it is neither, its event types are not classes, it does not take one argument, or calling
            it would run nothing.
    """
    if isinstance(subscriber, type):
        name = subscriber.__name__
        raise ConfigurationError(f"subscribe an object, not the class: subscribe({name}())")
    if isinstance(subscriber, DomainSubscriber):
        handle: Handler = subscriber.process
        check_takes_one(handle)
        classes = _listened_to(subscriber)
    elif callable(subscriber):
        handle = subscriber
        check_takes_one(handle)
        classes = _classes(f"on(...) of {place(subscriber)}", event_types) or annotated_types(
            subscriber, "annotate it with the event's class, or name the class: on(ProductAdded)"
        )
    else:
        raise ConfigurationError(
            f"{subscriber!r} is neither a DomainSubscriber nor a function that takes an event"
        )
    return EventSubscription(subscriber, handle, classes, is_asynchronous(handle))


def _listened_to(subscriber: DomainSubscriber) -> tuple[type, ...]:
    origin = f"listens_to of {qualified_name(subscriber)}"
    event_types = subscriber.listens_to()
    if event_types is None:
        return ()
    if isinstance(event_types, (str, type)) or not isinstance(event_types, (Sequence, set, frozenset)):
        raise ConfigurationError(
            f"{origin} must return a list of classes, such as [ProductAdded], not {event_types!r}"
        )
    return _classes(origin, event_types)


def _classes(origin: str, event_types: Iterable[object]) -> tuple[type, ...]:
    named = (one for event_type in event_types for one in classes_of(event_type, origin))
    return tuple(dict.fromkeys(named))


_Compiled = dict[type, tuple[Handler, ...]]

_all_routes: WeakSet[Routes] = WeakSet()
_where_not_subscribed: dict[object, tuple[EventSubscription, Handler]] = {}
_lock = threading.RLock()  # the garbage collector may remove one of the above while we hold it


class Routes:
    """Subscriptions, in order, and the handlers of each class of event that was published so far.

    Only this cache changes, so threads and tasks may share it. ``compiled`` and ``compiled_async`` are the cache, for
    direct access; ``for_publish`` and ``for_publish_async`` compute a class that is missing in it.
    """

    __slots__ = ("__weakref__", "compiled", "compiled_async", "subscriptions")

    _generation: ClassVar[object] = object()
    """Replaced when the caches of all routes are cleared."""

    def __init__(self, subscriptions: tuple[EventSubscription, ...] = ()) -> None:
        self.subscriptions = subscriptions
        self.compiled: _Compiled = {}
        self.compiled_async: _Compiled = {}
        with _lock:
            _all_routes.add(self)

    def for_publish(self, event_type: type) -> tuple[Handler, ...]:
        """Return the handlers of events of exactly this class, each once.

        Raises:
            ConfigurationError: one of them is asynchronous.
        """
        handlers = self.compiled.get(event_type)
        return self._compile(self.compiled, event_type) if handlers is None else handlers

    def for_publish_async(self, event_type: type) -> tuple[Handler, ...]:
        """Return the handlers of events of exactly this class, each once, asynchronous or not."""
        handlers = self.compiled_async.get(event_type)
        return self._compile(self.compiled_async, event_type) if handlers is None else handlers

    def _compile(self, cache: _Compiled, event_type: type) -> tuple[Handler, ...]:
        while True:
            generation = Routes._generation
            accepting = self._accepting(event_type)
            if cache is self.compiled:
                _refuse_asynchronous(accepting, event_type)
            handlers = cache[event_type] = tuple(one.handle for one in accepting)
            # Otherwise another thread has cleared the cache meanwhile, before this was in it.
            if generation is Routes._generation:
                return handlers

    def without(self, subscriber: object) -> Routes | None:
        """Return the routes without this subscriber; None if it is in none of them."""
        unwanted = identity_of(subscriber)
        kept = tuple(one for one in self.subscriptions if one.identity != unwanted)
        return Routes(kept) if len(kept) < len(self.subscriptions) else None

    def _accepting(self, event_type: type) -> list[EventSubscription]:
        # A subscriber that is subscribed several times is called once, at its first position.
        accepting: dict[object, EventSubscription] = {}
        for subscription in self.subscriptions:
            if subscription.accepts(event_type):
                accepting.setdefault(subscription.identity, subscription)
        handlers = list(accepting.values())
        if any(isinstance(one, Recorder) for one in handlers):
            return handlers
        for subscription, handler in tuple(_where_not_subscribed.values()):
            if subscription.accepts(event_type) and subscription.identity not in accepting:
                handlers.insert(0, EventSubscription(handler, handler, (), is_asynchronous=False))
        return handlers


def call_where_not_subscribed(subscription: EventSubscription, handler: Handler) -> Callable[[], None]:
    """Have ``handler`` called with events that a subscription is for, wherever it is not subscribed, on every bus.

    Not inside of ``DomainEventBus.recording()``, which keeps the events. The handler is called before the subscribers; what
    it raises reaches the publisher. Returns a function that ends this. Thread-safe.
    """
    key = object()

    def end() -> None:
        _where_not_subscribed.pop(key, None)
        _forget_compiled()

    _where_not_subscribed[key] = (subscription, handler)
    _forget_compiled()
    return end


def _refuse_asynchronous(accepting: Iterable[EventSubscription], event_type: type) -> None:
    for subscription in accepting:
        if subscription.is_asynchronous:
            raise ConfigurationError(
                f"{subscription.name} listens to {event_type.__qualname__} and is asynchronous: publish with "
                "`await bus.publish_async(event)`. No subscriber was called"
            ) from None


def _forget_compiled() -> None:
    Routes._generation = object()
    with _lock:
        for routes in _all_routes:
            routes.compiled.clear()
            routes.compiled_async.clear()


NO_ROUTES = Routes()


class Extension:
    """The subscriptions of a group, and the routes with them: the same object each time.

    The routes are cached as long as both are in use, so that a request, or a group made for it, leaves nothing behind.
    """

    __slots__ = ("_extended", "subscriptions")

    def __init__(self, subscriptions: tuple[EventSubscription, ...] = ()) -> None:
        self.subscriptions = subscriptions
        # By the ids of routes that live; a WeakKeyDictionary takes five times as long.
        self._extended: dict[int, tuple[ref[Routes], Routes]] = {}

    def of(self, routes: Routes) -> Routes:
        """Return the routes with these subscriptions added."""
        key = id(routes)
        known = self._extended.get(key)
        if known is not None and known[0]() is routes:
            return known[1]
        memory = self._extended
        extended = Routes(routes.subscriptions + self.subscriptions)
        memory[key] = (ref(routes, lambda _: memory.pop(key, None)), extended)
        return extended
