"""The domain of the order service by itself."""

from __future__ import annotations

import pytest

from melange import DomainEventBus
from shop.orders.events import OrderCancelled, OrderPlaced
from shop.orders.model import Order, Product, Refused, Status


def test_an_order_costs_what_its_products_cost() -> None:
    lamp = Product("lamp", "Lamp", price=2_500)

    with DomainEventBus.instance().recording() as events:
        Order.place("order-1", "Ada", lamp, quantity=2)

    assert events == [OrderPlaced("order-1", "Ada", "lamp", quantity=2, total=5_000)]


def test_a_cancelled_order_says_how_much_goes_back() -> None:
    order = Order("order-1", "Ada", "lamp", quantity=2, total=5_000)

    with DomainEventBus.instance().recording() as events:
        order.cancel("the warehouse lacks 1")

    assert events == [OrderCancelled("order-1", "Ada", total=5_000, reason="the warehouse lacks 1")]


def test_what_was_shipped_cannot_be_cancelled() -> None:
    order = Order("order-1", "Ada", "lamp", quantity=2, total=5_000, status=Status.SHIPPED)

    with DomainEventBus.instance().recording() as events, pytest.raises(Refused, match="shipped before"):
        order.cancel("the warehouse lacks 1")

    assert events == []
