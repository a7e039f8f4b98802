"""Domain events between the objects of a domain model, within one thread."""

from melange.domain.bus import DomainEvent, DomainEventBus
from melange.domain.dispatch import ErrorPolicy
from melange.domain.groups import Subscribers
from melange.domain.subscriptions import DomainSubscriber
from melange.domain.thread_state import OnCommit

__all__ = ["DomainEvent", "DomainEventBus", "DomainSubscriber", "ErrorPolicy", "OnCommit", "Subscribers"]
