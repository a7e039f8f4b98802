"""What happened in the domain."""

from __future__ import annotations

from melange.domain.bus import DomainEventBus
from melange.domain.deferral import ErrorPolicy
from melange.events import Occurrence


class DomainEvent(Occurrence):
    """A base that domain events may have; any object can be published.

        @dataclass(frozen=True)
        class ProductAdded(DomainEvent):
            product_id: int
            name: str

    ``occurred_on`` is when the event was created, aware, in UTC. It takes no part in comparisons.
    """

    def emit(self, errors: ErrorPolicy = "raise") -> None:
        """Publish this event on ``DomainEventBus.instance()``; what ``publish`` says holds here."""
        DomainEventBus.instance().publish(self, errors=errors)
