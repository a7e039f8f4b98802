"""Groups of subscribers, and their description as data and as a flowchart."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from melange.callables import Handler, is_type_form, qualified_name
from melange.domain.subscriptions import (
    DomainSubscriber,
    EventSubscription,
    Extension,
    event_subscription_for,
)

EVERY_EVENT = "*"


def describe(subscriptions: Sequence[EventSubscription]) -> dict[str, list[str]]:
    """Return the names of handlers, in order, by the name of the event's class."""
    described: dict[str, list[str]] = {}
    for subscription in subscriptions:
        names = [qualified_name(event_type) for event_type in subscription.event_types] or [EVERY_EVENT]
        for name in names:
            handlers = described.setdefault(name, [])
            if subscription.name not in handlers:
                handlers.append(subscription.name)
    return described


def graph(subscriptions: Sequence[EventSubscription]) -> str:
    """Return a Mermaid flowchart from events to handlers."""
    described = describe(subscriptions)
    events = {event: f"event{number}" for number, event in enumerate(described)}
    listening = dict.fromkeys(handler for handlers in described.values() for handler in handlers)
    handlers = {handler: f"handler{number}" for number, handler in enumerate(listening)}
    lines = [
        *(f'{node}(["{_label(event)}"])' for event, node in events.items()),
        *(f'{node}["{_label(handler)}"]' for handler, node in handlers.items()),
        *(f"{events[event]} --> {handlers[name]}" for event, names in described.items() for name in names),
    ]
    return "\n    ".join(["flowchart LR", *lines]) + "\n"


def _label(name: str) -> str:
    if name == EVERY_EVENT:
        return "every event"
    # Angle brackets, as in <locals> and <lambda>, would be HTML.
    return name.replace("<", "&lt;").replace(">", "&gt;")


EventT = TypeVar("EventT")
ResultT = TypeVar("ResultT")
HandlerT = TypeVar("HandlerT", bound=Handler)


class Registry(ABC):
    """An object that subscribers can be added to, and that can list them."""

    __slots__ = ()

    @property
    @abstractmethod
    def subscriptions(self) -> tuple[EventSubscription, ...]:
        """The subscriptions, in order."""

    @abstractmethod
    def _add(self, subscription: EventSubscription) -> None: ...

    def subscribe(self, subscriber: DomainSubscriber | Callable[[Any], object]) -> None:
        """Add a subscriber, or a function for the events in the annotation of its parameter; last in order.

        A second subscription of the same subscriber does not call it twice.

        Raises:
            ConfigurationError: it is not a subscriber, does not name its events, or cannot be called.
        """
        self._add(event_subscription_for(subscriber))

    @overload
    def on(
        self, event_type: type[EventT], /
    ) -> Callable[[Callable[[EventT], ResultT]], Callable[[EventT], ResultT]]: ...
    @overload
    def on(self, first: type, second: type, /, *more: type) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def on(self, handler: HandlerT, /) -> HandlerT: ...
    def on(self, *arguments: Any) -> Any:
        """Subscribe the decorated function: ``@bus.on(ProductAdded)``, or ``@bus.on`` to use its annotation.

        It also receives subclasses of the events. The function is not changed, so tests can call it.

        Raises:
            ConfigurationError: the arguments are not classes, or there is no annotation. Or the function is a method
                in the body of its class: subscribe the method of an object.
        """
        if len(arguments) == 1 and callable(arguments[0]) and not is_type_form(arguments[0]):
            self.subscribe(arguments[0])
            return arguments[0]

        def subscribe(handler: HandlerT) -> HandlerT:
            self._add(event_subscription_for(handler, arguments))
            return handler

        return subscribe

    def describe(self) -> dict[str, list[str]]:
        """Return the names of handlers, in order, by the name of the event; ``*`` is every event."""
        return describe(self.subscriptions)

    def graph(self) -> str:
        """Return the handlers and their events as a Mermaid flowchart."""
        return graph(self.subscriptions)


class Subscribers(Registry):
    """Subscribers registered once for the process, at import time; they receive events while a scope is open.

        stock = Subscribers()

        @stock.on(ProductAdded)
        def take_into_stock(event: ProductAdded) -> None: ...

        with bus.scope(stock):
            ...

    Thread-safe. A subscriber added while a scope is open receives events in later scopes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._extension = Extension()

    @property
    def subscriptions(self) -> tuple[EventSubscription, ...]:
        return self._extension.subscriptions

    @property
    def extension(self) -> Extension:
        """The current subscriptions, in the form for scopes."""
        return self._extension

    def _add(self, subscription: EventSubscription) -> None:
        with self._lock:
            self._extension = Extension((*self.subscriptions, subscription))
