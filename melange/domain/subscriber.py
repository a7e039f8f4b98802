"""Subscribers of domain events, checked once when they are subscribed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from types import BuiltinMethodType, MethodType
from typing import Any

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


def subscription_for(subscriber: object, event_types: Sequence[object] = ()) -> EventSubscription:
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
