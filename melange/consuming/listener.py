"""The base class of listeners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from typing import Any

from melange.events import EventMessage

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
