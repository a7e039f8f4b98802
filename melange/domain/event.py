"""The base class of domain events."""

from __future__ import annotations

from melange.domain.bus import DomainEventBus
from melange.domain.deferral import ErrorPolicy
from melange.events import Occurrence


class DomainEvent(Occurrence):
    """An optional base class of domain events; any object can be published.

        @dataclass(frozen=True)
        class ProductAdded(DomainEvent):
            product_id: int
            name: str

    ``occurred_on`` is the time of creation, aware, in UTC. It takes no part in comparisons.
    """

    def emit(self, errors: ErrorPolicy = "raise") -> None:
        """Publish this event on ``DomainEventBus.instance()``; see ``publish``."""
        DomainEventBus.instance().publish(self, errors=errors)
