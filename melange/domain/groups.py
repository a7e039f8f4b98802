"""Register subscribers on a bus, or at import time in a group."""

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
    """An object that subscribers can be added to, and that can list them."""

    __slots__ = ()

    @property
    @abstractmethod
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The subscriptions, in order."""

    @abstractmethod
    def _add(self, subscription: Subscription) -> None: ...

    def subscribe(self, subscriber: DomainSubscriber | Callable[[Any], object]) -> None:
        """Add a subscriber, or a function for the events in the annotation of its parameter; last in order.

        A second subscription of the same subscriber does not call it twice.

        Raises:
            ConfigurationError: it is not a subscriber, does not name its events, or cannot be called.
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
            self._add(subscription_for(handler, arguments))
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
    def subscriptions(self) -> tuple[Subscription, ...]:
        return self._extension.subscriptions

    @property
    def extension(self) -> Extension:
        """The current subscriptions, in the form for scopes."""
        return self._extension

    def _add(self, subscription: Subscription) -> None:
        with self._lock:
            self._extension = Extension((*self.subscriptions, subscription))
