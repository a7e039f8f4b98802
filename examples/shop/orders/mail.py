"""Mails to customers, after the commit. A real shop would send them."""

from __future__ import annotations

from melange import DomainEventBus
from melange.domain import Subscribers
from shop.orders.events import OrderCancelled, OrderPlaced, OrderShipped

mail = Subscribers()
after_commit = DomainEventBus.instance().after_commit


@mail.on
@after_commit
def confirm(event: OrderPlaced) -> None:
    print(
        f"  mail to {event.customer}: you have ordered {event.quantity} x {event.sku} for {event.total} cents"
    )


@mail.on
@after_commit
def announce_the_parcel(event: OrderShipped) -> None:
    print(f"  mail to {event.customer}: your parcel is on its way")


@mail.on
@after_commit
def apologize(event: OrderCancelled) -> None:
    print(f"  mail to {event.customer}: we are sorry, {event.reason}; you have your {event.total} cents back")
