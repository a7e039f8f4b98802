"""Domain events between the objects of a domain model, within one thread."""

from melange.domain.bus import DomainEventBus
from melange.domain.deferral import ErrorPolicy
from melange.domain.event import DomainEvent
from melange.domain.groups import Subscribers
from melange.domain.subscriber import DomainSubscriber
from melange.domain.thread_state import OnCommit

__all__ = ["DomainEvent", "DomainEventBus", "DomainSubscriber", "ErrorPolicy", "OnCommit", "Subscribers"]
