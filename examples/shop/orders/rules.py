"""The rules that run in the same transaction as the event that they react to."""

from __future__ import annotations

from melange.domain import Subscribers
from shop.orders import repository
from shop.orders.events import OrderCancelled, OrderPlaced

rules = Subscribers()


@rules.on
def charge_the_customer(event: OrderPlaced) -> None:
    """Refuse the order, and so roll back the command, if the customer's credit is too low."""
    repository.account(event.customer).charge(event.total)


@rules.on
def refund_the_customer(event: OrderCancelled) -> None:
    repository.account(event.customer).refund(event.total)
