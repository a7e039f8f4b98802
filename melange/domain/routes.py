"""The handlers of an event, computed once per class of event, then one dictionary look-up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakSet, ref

from melange.callables import Handler
from melange.domain.subscriber import EventSubscription, Recorder, identity_of
from melange.errors import ConfigurationError

_Compiled = dict[type, tuple[Handler, ...]]

_all_routes: WeakSet[Routes] = WeakSet()
_when_unheard: dict[object, tuple[EventSubscription, Handler]] = {}
_lock = threading.RLock()  # the garbage collector may remove one of the above while we hold it


class Routes:
    """Subscriptions, in order, and the handlers of each class of event that was published so far.

    Only this cache changes, so threads and tasks may share it. ``compiled`` and ``compiled_async`` are the cache, for
    direct access; ``for_publish`` and ``for_publish_async`` compute a class that is missing in it.
    """

    __slots__ = ("__weakref__", "compiled", "compiled_async", "subscriptions")

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
        if handlers is None:
            accepting = self._accepting(event_type)
            for subscription in accepting:
                if subscription.is_asynchronous:
                    raise ConfigurationError(
                        f"{subscription.name} listens to {event_type.__qualname__} and is asynchronous: publish with "
                        "`await bus.publish_async(event)`. No subscriber was called"
                    ) from None
            handlers = self.compiled[event_type] = tuple(one.handle for one in accepting)
        return handlers

    def for_publish_async(self, event_type: type) -> tuple[Handler, ...]:
        """Return the handlers of events of exactly this class, each once, asynchronous or not."""
        handlers = self.compiled_async.get(event_type)
        if handlers is None:
            handlers = self.compiled_async[event_type] = tuple(
                one.handle for one in self._accepting(event_type)
            )
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
        for subscription, handler in tuple(_when_unheard.values()):
            if subscription.accepts(event_type) and subscription.identity not in accepting:
                handlers.insert(0, EventSubscription(handler, handler, (), is_asynchronous=False))
        return handlers


def call_when_unheard(subscription: EventSubscription, handler: Handler) -> Callable[[], None]:
    """Have ``handler`` called with events that a subscription is for, wherever it is not subscribed, on every bus.

    Not inside of ``DomainEventBus.recording()``, which keeps the events. The handler is called before the subscribers; what it raises reaches the publisher. Returns a function that
    ends this. Thread-safe.
    """
    key = object()

    def end() -> None:
        _when_unheard.pop(key, None)
        _forget_compiled()

    _when_unheard[key] = (subscription, handler)
    _forget_compiled()
    return end


def _forget_compiled() -> None:
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
