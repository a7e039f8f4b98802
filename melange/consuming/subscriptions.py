"""The listeners of one consumer."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from melange.consuming.listener import Subscription, require_one_class
from melange.errors import ConfigurationError, DuplicateHandlerError
from melange.events import EventMessage


class Subscriptions:
    """Which listeners a consumer has and which of them want an event; thread-safe.

    Readers work on tuples and dicts that are replaced, never changed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: tuple[Subscription, ...] = ()
        self._accepting: dict[str, tuple[Subscription, ...]] = {}
        self.event_classes: Mapping[str, type[EventMessage]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The stable names of the listeners, in order of subscription."""
        return tuple(one.name for one in self._subscriptions)

    def add(self, subscription: Subscription) -> None:
        """Add a listener, last in order.

        Raises:
            DuplicateHandlerError: its name is taken, or another listener knows one of its event types by
                another class.
        """
        with self._lock:
            for other in self._subscriptions:
                _require_compatible(subscription, other)
            self._replace((*self._subscriptions, subscription))

    def remove(self, listener: object) -> bool:
        """Remove a listener object or function; False when it is not subscribed."""
        with self._lock:
            kept = tuple(other for other in self._subscriptions if other.listener is not listener)
            removed = len(kept) < len(self._subscriptions)
            self._replace(kept)
            return removed

    def accepting(self, event_type_name: str) -> tuple[Subscription, ...]:
        """Return the listeners that want events of this type, in order of subscription."""
        # Taken before the subscriptions are looked at: what was found among old ones must not outlive them.
        remembered = self._accepting
        known = remembered.get(event_type_name)
        if known is not None:
            return known
        accepting = tuple(one for one in self._subscriptions if one.accepts(event_type_name))
        # Only types that somebody wants are remembered: strangers could send any number of type names.
        if accepting and any(event_type_name in one.event_type_names for one in accepting):
            remembered[event_type_name] = accepting
        return accepting

    def require_some(self, queue_name: str) -> None:
        """Raise ``ConfigurationError`` when there is no listener."""
        if not self._subscriptions:
            raise ConfigurationError(
                f"nothing listens on queue {queue_name}: subscribe a listener first, or messages would be "
                "acknowledged that nobody has seen"
            )

    def require_synchronous(self) -> None:
        """Raise ``ConfigurationError`` when a listener needs an event loop."""
        for subscription in self._subscriptions:
            if subscription.is_async:
                raise ConfigurationError(
                    f"listener {subscription.name} is asynchronous and needs the event loop of a worker: "
                    "use consumer.run() or Worker(consumer).run()"
                )

    def _replace(self, subscriptions: tuple[Subscription, ...]) -> None:
        self._subscriptions = subscriptions
        self.event_classes = {
            name: event_class for one in subscriptions for name, event_class in one.event_classes.items()
        }
        self._accepting = {}


def _require_compatible(new: Subscription, other: Subscription) -> None:
    if new.name == other.name:
        raise DuplicateHandlerError(
            f"a listener named {new.name!r} is subscribed already. What a listener has finished is remembered under "
            "its name: give each its own, as the class attribute `name` or as @consumer.listener(..., name='...')"
        )
    for event_type_name, event_class in new.event_classes.items():
        require_one_class(event_type_name, event_class, other.event_classes.get(event_type_name))
