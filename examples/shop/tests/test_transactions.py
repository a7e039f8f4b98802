"""Commands with a database: state and events change together."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from melange.outbox import OutboxMessage
from shop.orders.commands import AddProduct, OpenAccount, PlaceOrder, commands
from shop.orders.database import new_session
from shop.orders.model import Refused
from shop.orders.queries import CreditLeft, queries

pytestmark = pytest.mark.usefixtures("orders")


def test_a_placed_order_is_charged_and_published() -> None:
    commands.send(OpenAccount("Ada", credit=6_000))
    commands.send(AddProduct("lamp", "Lamp", price=2_500))

    commands.send(PlaceOrder("Ada", "lamp", quantity=2))

    assert queries.ask(CreditLeft("Ada")) == 1_000
    assert published() == ["ProductAdded", "OrderPlaced"]


def test_a_refused_order_leaves_no_trace() -> None:
    commands.send(OpenAccount("Ada", credit=4_000))
    commands.send(AddProduct("lamp", "Lamp", price=2_500))

    with pytest.raises(Refused, match="4000 left"):
        commands.send(PlaceOrder("Ada", "lamp", quantity=2))

    assert queries.ask(CreditLeft("Ada")) == 4_000
    assert published() == ["ProductAdded"]


def published() -> list[str]:
    with new_session() as session:
        return list(session.scalars(select(OutboxMessage.event_type_name).order_by(OutboxMessage.id)))
