"""Listeners: their base class, the keywords that they may have, and the checks when they are subscribed."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from melange.callables import annotated_types, is_asynchronous
from melange.consuming.leases import Lease
from melange.consuming.time_limit import check_time_limit
from melange.deduplication.base import Claimed
from melange.errors import ConfigurationError, DuplicateHandlerError, nearest
from melange.events import EventMessage, full_name
from melange.messages import Delivery

EventType = str | type[EventMessage]


class ExchangeListener(ABC):
    """Reacts to the events of a queue. Subclasses need not call ``super().__init__()``.

    ``name`` is the listener's stable name: marks of finished messages are stored under it, so a renamed listener is a new
    one. By default it is the class's ``__qualname__``. ``timeout_seconds`` limits one run; None means the consumer's
    limit.
    """

    name: str = ""
    timeout_seconds: float | None = None

    @abstractmethod
    def process(self, event: Any, *args: Any, **kwargs: Any) -> Awaitable[None] | None:
        """React to one event.

        Return when done: this listener does not get the event again. Raise when not done: the event is delivered again
        later, until ``max_attempts`` runs have failed; ``Retry`` and ``Reject`` control this.

        Declare the keywords that you need, or none: ``message_id`` (the same each time the event is delivered),
        ``event_type_name``, ``headers`` (read-only mapping of texts), ``attempt`` (the number of this run, 1 for the
        first), ``receive_count`` (how often the broker has delivered the message), ``queue_name``, ``lease_lost`` (a
        function: True once another receiver may have the event, so that later effects may happen twice), and those of
        the consumer's deduplication store: an inbox has ``session``.

        ``event`` is an object if ``listens_to`` names its class, or if the class is registered with the serializer;
        otherwise it is a dict. Do not change it: listeners of one consumer may share it.

        It may be ``async def``: it then needs a ``Worker``, and runs on its event loop.
        """

    def listens_to(self) -> Sequence[EventType] | None:
        """Return the event type names or event classes to react to; None or empty for all."""
        return None


class ListenerCall(NamedTuple):
    """One listener about to run for one delivery; a named tuple, at half the cost of a frozen dataclass.

    ``attempt`` is the number of the run, 1 for the first. ``claimed`` is None without a deduplication store.
    """

    subscription: Subscription
    event: Any
    event_type_name: str
    lease: Lease
    attempt: int
    claimed: Claimed | None

    @property
    def listener_name(self) -> str:
        """The listener's stable name."""
        return self.subscription.name

    @property
    def delivery(self) -> Delivery:
        """The delivery of the event."""
        return self.lease.delivery


# The keywords that ``process`` may have, and their values.
_KEYWORDS: dict[str, Callable[[ListenerCall], object]] = {
    "message_id": lambda call: call.lease.delivery.message.message_id,
    "event_type_name": lambda call: call.event_type_name,
    "headers": lambda call: call.lease.delivery.message.headers,
    "attempt": lambda call: call.attempt,
    "receive_count": lambda call: call.lease.delivery.receive_count,
    "queue_name": lambda call: call.lease.delivery.queue.name,
    "lease_lost": lambda call: call.lease.is_lost,
}


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscribed listener.

    ``keywords`` are those of its ``process``, empty for the event alone. ``event_classes`` are the classes of the objects
    that it receives, by type name.
    """

    listener: object
    name: str
    event_type_names: frozenset[str]
    event_classes: Mapping[str, type[EventMessage]]
    process: Callable[..., object]
    keywords: tuple[str, ...]
    is_async: bool
    timeout_seconds: float | None

    def accepts(self, event_type_name: str) -> bool:
        """Return True if the listener wants events of this type."""
        return not self.event_type_names or event_type_name in self.event_type_names

    def run(self, call: ListenerCall) -> object:
        """Call the listener and return its result. Its exceptions are not caught."""
        if not self.keywords:
            return self.process(call.event)
        return self.process(call.event, **{name: _value_of(name, call) for name in self.keywords})


def _value_of(keyword: str, call: ListenerCall) -> object:
    if keyword in _KEYWORDS:
        return _KEYWORDS[keyword](call)
    assert call.claimed is not None  # a store with keywords is always used
    return call.claimed.keywords[keyword]


def subscription_for(
    listener: object,
    event_types: Sequence[EventType] | None = None,
    *,
    name: str | None = None,
    timeout_seconds: float | None = None,
    store_keywords: tuple[str, ...] = (),
) -> Subscription:
    """Return an ``ExchangeListener``, a function or another callable ready to be called.

    ``store_keywords`` are those that the consumer's deduplication store offers.

    Raises:
        ConfigurationError: it is not a listener, does not name event types, or asks for keywords that do not exist.
    """
    if isinstance(listener, type):
        raise ConfigurationError(
            f"subscribe an object, not the class: consumer.subscribe({listener.__name__}())"
        )
    process: Callable[..., object]
    if isinstance(listener, ExchangeListener):
        process = listener.process
        name = name or listener.name or type(listener).__qualname__
        event_types = listener.listens_to()
        timeout_seconds = listener.timeout_seconds if timeout_seconds is None else timeout_seconds
    elif callable(listener):
        process = listener
        name = name or listener_name(listener)
    else:
        raise ConfigurationError(
            f"{listener!r} is not an ExchangeListener; a function is subscribed with @consumer.listener('EventTypeName')"
        )
    if not isinstance(name, str):
        raise ConfigurationError(f"the name of a listener must be text, not {name!r}")
    check_time_limit(timeout_seconds)
    names, classes = resolve_event_types(f"listens_to of {name}", event_types)
    subscription = Subscription(
        listener=listener,
        name=name,
        event_type_names=names,
        event_classes=classes,
        process=process,
        keywords=_keywords_of(name, process, (*_KEYWORDS, *store_keywords)),
        is_async=is_asynchronous(process),
        timeout_seconds=timeout_seconds,
    )
    _check_annotation(subscription)
    return subscription


def listener_name(function: Any) -> str:
    """Return the stable name of a function that has no other."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name)


def resolve_event_types(
    origin: str, event_types: Sequence[EventType] | None
) -> tuple[frozenset[str], dict[str, type[EventMessage]]]:
    """Return the type names, and the classes by type name; ``origin`` names their source in errors.

    Raises:
        ConfigurationError: it is not a sequence of type names and event classes.
    """
    if isinstance(event_types, (str, type)) or not isinstance(event_types, (Iterable, type(None))):
        raise ConfigurationError(
            f"{origin} must be a sequence of event types, such as [{event_types!r}], not {event_types!r} itself"
        )
    names: set[str] = set()
    classes: dict[str, type[EventMessage]] = {}
    for event_type in event_types or ():
        if isinstance(event_type, str) and event_type:
            names.add(event_type)
        elif isinstance(event_type, type) and issubclass(event_type, EventMessage):
            names.add(event_type.event_type_name)
            other = classes.setdefault(event_type.event_type_name, event_type)
            if other is not event_type:
                raise DuplicateHandlerError(
                    f"both {full_name(other)} and {full_name(event_type)} are the event type {event_type.event_type_name!r}: "
                    "give one of them another event_type_name, or listen to the name instead of the class"
                )
        else:
            raise ConfigurationError(
                f"{origin} contains {event_type!r}, which is neither an event type name nor a class that inherits from "
                "EventMessage"
            )
    return frozenset(names), classes


def _keywords_of(
    listener_name: str, process: Callable[..., object], offered: tuple[str, ...]
) -> tuple[str, ...]:
    try:
        parameters = list(inspect.signature(process).parameters.values())
    except (ValueError, TypeError):  # some callables in C have no signature: they receive the event alone
        return ()
    if not parameters or parameters[0].kind not in (
        parameters[0].POSITIONAL_ONLY,
        parameters[0].POSITIONAL_OR_KEYWORD,
        parameters[0].VAR_POSITIONAL,
    ):
        raise ConfigurationError(f"process of {listener_name} must take the event as its first argument")
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return offered
    wanted = [parameter for parameter in parameters[1:] if parameter.kind is not parameter.VAR_POSITIONAL]
    for parameter in wanted:
        if parameter.default is parameter.empty and (
            parameter.name not in offered or parameter.kind is parameter.POSITIONAL_ONLY
        ):
            raise ConfigurationError(
                f"process of {listener_name} asks for {parameter.name!r}{_advice(parameter.name, offered)}; it can "
                f"have {', '.join(offered)} as keywords"
            )
    return tuple(parameter.name for parameter in wanted if parameter.name in offered)


def _advice(keyword: str, offered: tuple[str, ...]) -> str:
    if keyword == "session":
        return ", which comes from an inbox: give the consumer deduplication=Inbox(...)"
    return nearest(keyword, offered)


def _check_annotation(subscription: Subscription) -> None:
    """Raise ``ConfigurationError`` if the listener's annotation is another event class than the one it listens to."""
    try:
        taken = annotated_types(subscription.process, advice="")
    except ConfigurationError:  # no annotation, or none that can be checked
        return
    if not any(issubclass(kind, EventMessage) for kind in taken):
        return
    for event_class in subscription.event_classes.values():
        if not issubclass(event_class, taken):
            raise ConfigurationError(
                f"listener {subscription.name} listens to {full_name(event_class)}, and its first parameter is annotated "
                f"with {' | '.join(map(full_name, taken))}: name the same class in both"
            )
