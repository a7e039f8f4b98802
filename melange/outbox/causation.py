"""The headers that name the cause of a message, and the ids of domain events that are causes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from melange.messages import CAUSATION_HEADER, caused_by, message_being_handled, new_uuid

_KEPT_EVENTS = 16
"""The limit of remembered events: several are handled at once only in nested scopes."""


def trace_headers(domain_event_id: str | None) -> dict[str, str]:
    """Return the headers for a message published now, from the message and the domain event being handled."""
    cause = message_being_handled()
    trace = {} if cause is None else caused_by(cause)
    if domain_event_id is not None:
        trace[CAUSATION_HEADER] = domain_event_id
    return trace


class DomainEventIds:
    """The id of each domain event that is being handled; those of earlier events are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, _Known] = OrderedDict()

    def of(self, domain_event: object) -> str:
        """Return the id by which messages name the event as their cause."""
        return self._of(domain_event).message_id

    def for_message(self, domain_event: object) -> str:
        """Return the id of the next message that is made from the event: the first one has the event's id."""
        known = self._of(domain_event)
        if known.is_taken:
            return new_uuid()
        known.is_taken = True
        return known.message_id

    def clear(self) -> None:
        """Forget all events."""
        self._known.clear()

    def _of(self, domain_event: object) -> _Known:
        known = self._known.get(id(domain_event))
        if known is None:
            known = self._known[id(domain_event)] = _Known(domain_event)
            if len(self._known) > _KEPT_EVENTS:
                self._known.popitem(last=False)
        return known


@dataclass(slots=True)
class _Known:
    event: object  # kept, so that no other one can have the same id() meanwhile
    message_id: str = field(default_factory=new_uuid)
    is_taken: bool = False
