"""Commands with a database: state and events change together."""

from __future__ import annotations

import pytest

from melange.testing import Harness
from shop import contract
from shop.orders.commands import AddProduct, OpenAccount, PlaceOrder, commands
from shop.orders.model import Refused
from shop.orders.queries import CreditLeft, queries


def test_a_placed_order_is_charged_and_published(melange: Harness) -> None:
    commands.send(OpenAccount("Ada", credit=6_000))
    commands.send(AddProduct("lamp", "Lamp", price=2_500))

    order_id = commands.send(PlaceOrder("Ada", "lamp", quantity=2))
    melange.settle()

    assert queries.ask(CreditLeft("Ada")) == 1_000
    assert melange.published(contract.OrderPlaced) == [contract.OrderPlaced(order_id, "lamp", quantity=2)]


def test_a_refused_order_leaves_no_trace(melange: Harness) -> None:
    commands.send(OpenAccount("Ada", credit=4_000))
    commands.send(AddProduct("lamp", "Lamp", price=2_500))

    with pytest.raises(Refused, match="4000 left"):
        commands.send(PlaceOrder("Ada", "lamp", quantity=2))
    melange.settle()

    assert queries.ask(CreditLeft("Ada")) == 4_000
    melange.nothing_published(contract.OrderPlaced)
