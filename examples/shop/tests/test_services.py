"""Both services together, in one thread, without waiting."""

from __future__ import annotations

import pytest

from melange.testing import Harness
from shop import contract
from shop.orders import listeners as orders
from shop.orders.commands import AddProduct, OpenAccount, PlaceOrder, commands
from shop.orders.model import Status
from shop.orders.queries import CreditLeft, StatusOfOrder, queries
from shop.warehouse import listeners as warehouse


@pytest.fixture
def shop(melange: Harness) -> Harness:
    """Run both services. Ada has credit for 10 lamps, 5 are in the warehouse."""
    orders.make_consumer()
    warehouse.make_consumer()
    commands.send(OpenAccount("Ada", credit=10_000))
    commands.send(AddProduct("lamp", "Lamp", price=1_000))
    melange.settle()
    return melange


def test_what_is_in_the_warehouse_is_shipped(shop: Harness) -> None:
    order_id = commands.send(PlaceOrder("Ada", "lamp", quantity=5))

    shop.settle()

    assert shop.published(contract.OrderShipped) == [contract.OrderShipped(order_id)]
    assert queries.ask(StatusOfOrder(order_id)) is Status.SHIPPED
    assert queries.ask(CreditLeft("Ada")) == 5_000


def test_what_is_not_there_is_cancelled_and_paid_back(shop: Harness) -> None:
    order_id = commands.send(PlaceOrder("Ada", "lamp", quantity=6))

    shop.settle()

    assert shop.published(contract.OutOfStock) == [contract.OutOfStock(order_id, missing=1)]
    assert queries.ask(StatusOfOrder(order_id)) is Status.CANCELLED
    assert queries.ask(CreditLeft("Ada")) == 10_000


@pytest.mark.melange(duplicates=0.5, shuffle=True)
def test_the_services_tolerate_what_queues_may_do(shop: Harness) -> None:
    for _ in range(5):
        commands.send(PlaceOrder("Ada", "lamp", quantity=1))

    shop.advance(minutes=1)  # an order that came before its product is retried

    assert len(shop.published(contract.OrderShipped)) == 5
    assert queries.ask(CreditLeft("Ada")) == 5_000


def test_an_order_survives_an_outage_of_the_broker(shop: Harness) -> None:
    shop.faults.next_publish_fails(times=2)

    order_id = commands.send(PlaceOrder("Ada", "lamp", quantity=1))
    shop.advance(minutes=1)

    assert queries.ask(StatusOfOrder(order_id)) is Status.SHIPPED
