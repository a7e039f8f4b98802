"""What follows within the same transaction when something happened in the domain."""

from __future__ import annotations

from melange.domain import Subscribers
from shop.orders import repository
from shop.orders.events import OrderCancelled, OrderPlaced

rules = Subscribers()


@rules.on
def charge_the_customer(event: OrderPlaced) -> None:
    """Refuse the order with all that belongs to it when the customer's credit does not suffice."""
    repository.account(event.customer).charge(event.total)


@rules.on
def give_the_money_back(event: OrderCancelled) -> None:
    repository.account(event.customer).give_back(event.total)
