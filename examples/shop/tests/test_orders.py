"""The order service: its domain without anything around it, then its transactions, then both services, without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from melange import DomainEventBus
from melange.outbox import OutboxMessage
from shop.orders.commands import AddProduct, OpenAccount, PlaceOrder, commands
from shop.orders.database import new_session, open_orders
from shop.orders.events import OrderCancelled, OrderPlaced
from shop.orders.model import Order, Product, Refused, Status
from shop.orders.queries import CreditLeft, queries


class TestDomain:
    """Neither database nor broker: what happened is what was told."""

    def test_an_order_costs_what_its_products_cost(self) -> None:
        lamp = Product("lamp", "Lamp", price=2_500)

        with DomainEventBus.instance().recording() as events:
            Order.place("order-1", "Ada", lamp, quantity=2)

        assert events == [OrderPlaced("order-1", "Ada", "lamp", quantity=2, total=5_000)]

    def test_an_order_that_was_shipped_cannot_be_cancelled(self) -> None:
        order = Order("order-1", "Ada", "lamp", quantity=2, total=5_000, status=Status.SHIPPED)

        with DomainEventBus.instance().recording() as events, pytest.raises(Refused, match="shipped before"):
            order.cancel("changed my mind")

        assert events == []

    def test_a_cancelled_order_says_how_much_goes_back(self) -> None:
        order = Order("order-1", "Ada", "lamp", quantity=2, total=5_000)

        with DomainEventBus.instance().recording() as events:
            order.cancel("1 are missing")

        assert events == [OrderCancelled("order-1", "Ada", total=5_000, reason="1 are missing")]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_orders(tmp_path)
    yield engine
    engine.dispose()


@pytest.mark.usefixtures("engine")
class TestTransactions:
    """Commands on a database of their own."""

    def test_a_placed_order_is_charged_and_told_to_the_outside(self) -> None:
        commands.send(OpenAccount("Ada", credit=6_000))
        commands.send(AddProduct("lamp", "Lamp", price=2_500))

        commands.send(PlaceOrder("Ada", "lamp", quantity=2))

        assert queries.ask(CreditLeft("Ada")) == 1_000
        assert told_to_the_outside() == ["ProductAdded", "OrderPlaced"]

    def test_a_refused_order_leaves_no_trace(self) -> None:
        commands.send(OpenAccount("Ada", credit=4_000))
        commands.send(AddProduct("lamp", "Lamp", price=2_500))

        with pytest.raises(Refused, match="4000 left"):
            commands.send(PlaceOrder("Ada", "lamp", quantity=2))

        assert queries.ask(CreditLeft("Ada")) == 4_000
        assert told_to_the_outside() == ["ProductAdded"]


def told_to_the_outside() -> list[str]:
    with new_session() as session:
        return list(session.scalars(select(OutboxMessage.event_type_name).order_by(OutboxMessage.id)))
