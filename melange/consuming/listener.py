"""What users subclass to react to events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from typing import Any

from melange.events import EventMessage

EventType = str | type[EventMessage]


class ExchangeListener(ABC):
    """Reacts to the events of a queue. Subclasses need not call ``super().__init__()``.

    ``name`` is the listener's stable name: what it has finished is remembered under it, so a renamed listener is a new
    one. By default it is the class's ``__qualname__``. ``timeout_seconds`` limits how long one run may take; None means
    the consumer's limit.
    """

    name: str = ""
    timeout_seconds: float | None = None

    @abstractmethod
    def process(self, event: Any, *args: Any, **kwargs: Any) -> Awaitable[None] | None:
        """React to one event.

        Returning means done: the event is never given to this listener again. Raising means not done: it is delivered
        again later, until ``max_attempts`` runs have failed; ``Retry`` and ``Reject`` steer that.

        Declare the keywords you want, or none: ``message_id`` (the same each time the event is delivered),
        ``event_type_name``, ``headers`` (read-only mapping of texts), ``attempt`` (the number of this run, 1 for the
        first), ``receive_count`` (how often the broker has delivered the message), ``queue_name``, ``lease_lost`` (call
        it: True once another receiver may have the event, so that what is done from now on may be done twice), and
        those of the consumer's deduplication store: an inbox has ``session``.

        ``event`` is an object if ``listens_to`` names its class, or if that is registered with the serializer; else a
        dict. Do not change it: listeners of one consumer may share it.

        It may be ``async def``: it then runs on the event loop of the ``Worker``, which it needs.
        """

    def listens_to(self) -> Sequence[EventType] | None:
        """Return the event type names or event classes to react to; None or empty for all."""
        return None
