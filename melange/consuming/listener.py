"""What users subclass to react to events, and how a consumer calls it."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from melange.consuming.leases import Lease
from melange.errors import ConfigurationError, DuplicateHandlerError, nearest
from melange.events import EventMessage

EventType = str | type[EventMessage]


class ExchangeListener(ABC):
    """Reacts to the events of a queue. Subclasses need not call ``super().__init__()``.

    ``name`` is the listener's stable name: what it has finished is remembered under it, so a renamed
    listener is a new one. By default it is the class's ``__qualname__``.
    """

    name: str = ""

    @abstractmethod
    def process(self, event: Any, *args: Any, **kwargs: Any) -> None:
        """React to one event.

        Returning means done: the event is never given to this listener again. Raising means not done: it
        comes again later, at most ``max_attempts`` times; ``Retry`` and ``Reject`` steer that.

        Declare the keywords you want, or none: ``message_id`` (the same each time the event comes),
        ``event_type_name``, ``headers`` (read-only mapping of texts), ``receive_count`` (1 the first
        time), ``queue_name``, ``lease_lost`` (call it: True once another receiver may have the event, so
        that what is done from now on may be done twice), and those of the consumer's deduplication store: an
        inbox has ``session``. ``event`` is an object for the event classes that ``listens_to`` names, else
        a dict; listeners of one consumer share it.

        It may be ``async def``: it then runs on the event loop of the ``Worker``, which it needs.
        """

    def listens_to(self) -> Sequence[EventType] | None:
        """Return the event type names or event classes to react to; None or empty for all."""
        return None


# What ``process`` may ask for by name, and where it comes from.
_KEYWORDS: dict[str, Callable[[Lease, str], object]] = {
    "message_id": lambda lease, event_type_name: lease.delivery.message.message_id,
    "event_type_name": lambda lease, event_type_name: event_type_name,
    "headers": lambda lease, event_type_name: lease.delivery.message.headers,
    "receive_count": lambda lease, event_type_name: lease.attempt,
    "queue_name": lambda lease, event_type_name: lease.delivery.queue.name,
    "lease_lost": lambda lease, event_type_name: lease.is_lost,
}


@dataclass(frozen=True, slots=True)
class Subscription:
    """A listener as its consumer holds it: checked once, ready to be called.

    ``keywords`` are those that its ``process`` takes, empty for the event alone.
    """

    listener: object
    name: str
    event_type_names: frozenset[str]
    event_classes: Mapping[str, type[EventMessage]]
    process: Callable[..., object]
    keywords: tuple[str, ...]
    is_async: bool

    def accepts(self, event_type_name: str) -> bool:
        """Return whether the listener wants events of this type."""
        return not self.event_type_names or event_type_name in self.event_type_names

    def run(self, event: Any, lease: Lease, event_type_name: str) -> object:
        """Call the listener and return what it returned; what it raises passes."""
        if not self.keywords:
            return self.process(event)
        return self.process(
            event, **{name: _value_of(name, lease, event_type_name) for name in self.keywords}
        )


def _value_of(keyword: str, lease: Lease, event_type_name: str) -> object:
    if keyword in _KEYWORDS:
        return _KEYWORDS[keyword](lease, event_type_name)
    assert lease.claim is not None  # a store that offers keywords is never done without
    return lease.claim.keywords[keyword]


def subscription_for(listener: ExchangeListener, store_keywords: tuple[str, ...] = ()) -> Subscription:
    """Return the listener ready to be called; ``store_keywords`` are those that the consumer's store offers.

    Raises:
        ConfigurationError: it is no listener, ``listens_to`` does not name event types, or ``process`` asks
            for keywords that do not exist.
    """
    if isinstance(listener, type):
        raise ConfigurationError(
            f"subscribe an object, not the class: consumer.subscribe({listener.__name__}())"
        )
    if not isinstance(listener, ExchangeListener):
        raise ConfigurationError(
            f"{listener!r} is no ExchangeListener; a function is subscribed with @consumer.listener('EventTypeName')"
        )
    return _subscription(
        listener,
        listener.name or type(listener).__qualname__,
        listener.listens_to(),
        listener.process,
        store_keywords,
    )


def subscription_for_function(
    function: Callable[..., object],
    event_types: Sequence[EventType],
    name: str | None,
    store_keywords: tuple[str, ...] = (),
) -> Subscription:
    """Return the function ready to be called as a listener; raises as ``subscription_for``."""
    return _subscription(function, name or function.__qualname__, event_types, function, store_keywords)


def _subscription(
    listener: object,
    name: str,
    event_types: Sequence[EventType] | None,
    process: Callable[..., object],
    store_keywords: tuple[str, ...],
) -> Subscription:
    names, classes = resolve_event_types(f"listens_to of {name}", event_types)
    return Subscription(
        listener=listener,
        name=name,
        event_type_names=names,
        event_classes=classes,
        process=process,
        keywords=_keywords_of(name, process, (*_KEYWORDS, *store_keywords)),
        is_async=inspect.iscoroutinefunction(process),
    )


def resolve_event_types(
    origin: str, event_types: Sequence[EventType] | None
) -> tuple[frozenset[str], dict[str, type[EventMessage]]]:
    """Return the type names, and the classes by type name; ``origin`` says in errors who named them.

    Raises:
        ConfigurationError: it is no sequence of type names and event classes.
    """
    if isinstance(event_types, (str, type)):
        raise ConfigurationError(
            f"{origin} must be a sequence of event types, such as [{event_types!r}], "
            f"not {event_types!r} itself"
        )
    names: set[str] = set()
    classes: dict[str, type[EventMessage]] = {}
    for event_type in event_types or ():
        if isinstance(event_type, str) and event_type:
            names.add(event_type)
        elif isinstance(event_type, type) and issubclass(event_type, EventMessage):
            names.add(event_type.event_type_name)
            require_one_class(event_type.event_type_name, event_type, classes.get(event_type.event_type_name))
            classes[event_type.event_type_name] = event_type
        else:
            raise ConfigurationError(
                f"{origin} holds {event_type!r}, which is neither an event type name nor "
                "a class that inherits from EventMessage"
            )
    return frozenset(names), classes


def require_one_class(
    event_type_name: str, event_class: type[EventMessage], other_class: type[EventMessage] | None
) -> None:
    """Raise ``DuplicateHandlerError`` when a type name already stands for another class."""
    if other_class is not None and other_class is not event_class:
        raise DuplicateHandlerError(
            f"both {_place(other_class)} and {_place(event_class)} are the event type {event_type_name!r} here: give "
            "one of them another event_type_name, or listen to the name instead of the class"
        )


def _keywords_of(
    listener_name: str, process: Callable[..., object], offered: tuple[str, ...]
) -> tuple[str, ...]:
    if inspect.isgeneratorfunction(process) or inspect.isasyncgenfunction(process):
        raise ConfigurationError(
            f"process of {listener_name} is a generator, and calling it runs nothing: take the yield out"
        )
    parameters = list(inspect.signature(process).parameters.values())
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


def _place(event_class: type) -> str:
    return f"{event_class.__module__}.{event_class.__qualname__}"
