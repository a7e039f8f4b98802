"""Registering subscribers: on a bus, or at import time in a group."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar, overload

from melange.callables import Handler, is_type_form
from melange.domain.description import describe, graph
from melange.domain.routes import Extension
from melange.domain.subscriber import DomainSubscriber, Subscription, subscription_for

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
            ConfigurationError: what was named are no classes, or there is no annotation to go by. Or the function
                is a method in the body of its class, which needs an object: subscribe the method of one.
        """
        if len(arguments) == 1 and callable(arguments[0]) and not is_type_form(arguments[0]):
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
        self._extension = Extension()

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        return self._extension.subscriptions

    @property
    def extension(self) -> Extension:
        """The subscriptions of now, as scopes add them."""
        return self._extension

    def _add(self, subscription: Subscription) -> None:
        with self._lock:
            self._extension = Extension((*self.subscriptions, subscription))
