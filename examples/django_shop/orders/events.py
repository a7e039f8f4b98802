"""What happens to orders: domain events, what follows from them, and what other services receive."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from melange import DomainEvent, DomainEventBus
from melange.domain import Subscribers
from melange.outbox import IntegrationEvents


@dataclass(frozen=True)
class OrderPlaced(DomainEvent):
    order_id: str


mailing = Subscribers()
integration = IntegrationEvents()


@mailing.on(OrderPlaced)
@DomainEventBus.instance().after_commit
def send_mail(event: OrderPlaced) -> None:
    with Path(os.environ["MAILS"]).open("a") as mails:
        mails.write(f"{event.order_id}\n")


@integration.to("orders", key=lambda event: event.order_id)
def order_placed(event: OrderPlaced) -> dict[str, object]:
    return {"event_type_name": "OrderPlaced", "order_id": event.order_id}
