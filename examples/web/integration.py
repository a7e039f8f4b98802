"""Which domain events other applications receive; Django's application has no outbox, and does not import this."""

from __future__ import annotations

from melange.outbox import IntegrationEvents
from web.shop import OrderPlaced

integration = IntegrationEvents()


@integration.to("orders", key=lambda event: event.order_id)
def order_placed(event: OrderPlaced) -> dict[str, object]:
    return {"event_type_name": "OrderPlaced", "order_id": event.order_id}
