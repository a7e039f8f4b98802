"""Registering subscribers: on a bus, or at import time in a group."""

# MERGED DOCS: Who listens to what, for people.

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from melange.callables import Handler, qualified_name
from melange.domain.subscriber import DomainSubscriber, Subscription, subscription_for

EVERY_EVENT = "*"


def describe(subscriptions: Sequence[Subscription]) -> dict[str, list[str]]:
    """Return the names of handlers, in order, by the name of the event's class."""
    described: dict[str, list[str]] = {}
    for subscription in subscriptions:
        names = [qualified_name(event_type) for event_type in subscription.event_types] or [EVERY_EVENT]
        for name in names:
            handlers = described.setdefault(name, [])
            if subscription.name not in handlers:
                handlers.append(subscription.name)
    return described


def graph(subscriptions: Sequence[Subscription]) -> str:
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
    """What takes subscribers, and can tell who they are."""

    __slots__ = ()

    @property
    @abstractmethod
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The subscriptions, in order."""

    @abstractmethod
    def _add(self, subscription: Subscription) -> None: ...

    def subscribe(self, subscriber: DomainSubscriber | Callable[[Any], object]) -> None:
        """Add a subscriber, or a function for the events that its parameter is annotated with; last in order.

        One that is there already is not called twice.

        Raises:
            ConfigurationError: it is no subscriber, does not say what it listens to, or cannot be called.
        """
        self._add(subscription_for(subscriber))

    @overload
    def on(
        self, event_type: type[EventT], /
    ) -> Callable[[Callable[[EventT], ResultT]], Callable[[EventT], ResultT]]: ...
    @overload
    def on(self, first: type, second: type, /, *more: type) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def on(self, handler: HandlerT, /) -> HandlerT: ...
    def on(self, *arguments: Any) -> Any:
        """Subscribe the function below: ``@bus.on(ProductAdded)``, or ``@bus.on`` to go by its annotation.

        Subclasses of the events are heard too. The function stays what it was, also to be called in tests.

        Raises:
            ConfigurationError: what was named are no classes, or there is no annotation to go by.
        """
        if len(arguments) == 1 and callable(arguments[0]) and not isinstance(arguments[0], type):
            self.subscribe(arguments[0])
            return arguments[0]

        def subscribe(handler: HandlerT) -> HandlerT:
            self._add(subscription_for(handler, arguments))
            return handler

        return subscribe

    def describe(self) -> dict[str, list[str]]:
        """Return who listens to what: names of handlers, in order, by the event's name; ``*`` is every event."""
        return describe(self.subscriptions)

    def graph(self) -> str:
        """Return who listens to what as a Mermaid flowchart."""
        return graph(self.subscriptions)


class Subscribers(Registry):
    """Subscribers registered once for the process, at import time; nobody hears anything until a scope opens them.

        stock = Subscribers()

        @stock.on(ProductAdded)
        def take_into_stock(event: ProductAdded) -> None: ...

        with bus.scope(stock):
            ...

    Thread-safe. What is added while a scope is open is heard in the scopes that are opened after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: tuple[Subscription, ...] = ()

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        return self._subscriptions

    def _add(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
