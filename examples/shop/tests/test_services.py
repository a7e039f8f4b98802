"""Both services together, in one thread, without waiting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from melange.outbox import OutboxMessage
from shop.orders.commands import AddProduct, OpenAccount, PlaceOrder, commands
from shop.orders.model import Status
from shop.orders.queries import CreditLeft, StatusOfOrder, queries

ProcessEverything = Callable[[], None]


@pytest.fixture
def lamps(process_everything: ProcessEverything) -> None:
    """Ada has credit for 10 lamps. 5 are in the warehouse."""
    commands.send(OpenAccount("Ada", credit=10_000))
    commands.send(AddProduct("lamp", "Lamp", price=1_000))
    process_everything()


@pytest.mark.usefixtures("lamps")
def test_what_is_in_the_warehouse_is_shipped(process_everything: ProcessEverything) -> None:
    order_id = commands.send(PlaceOrder("Ada", "lamp", quantity=5))

    process_everything()

    assert queries.ask(StatusOfOrder(order_id)) is Status.SHIPPED
    assert queries.ask(CreditLeft("Ada")) == 5_000


@pytest.mark.usefixtures("lamps")
def test_what_is_not_there_is_cancelled_and_paid_back(process_everything: ProcessEverything) -> None:
    order_id = commands.send(PlaceOrder("Ada", "lamp", quantity=6))

    process_everything()

    assert queries.ask(StatusOfOrder(order_id)) is Status.CANCELLED
    assert queries.ask(CreditLeft("Ada")) == 10_000


@pytest.mark.usefixtures("lamps")
def test_a_message_names_the_one_that_it_followed_from(
    process_everything: ProcessEverything, orders: Engine, warehouse: Engine
) -> None:
    commands.send(PlaceOrder("Ada", "lamp", quantity=1))

    process_everything()

    cause = last_message_in(orders)
    assert last_message_in(warehouse).headers == {
        "causation-id": cause.message_id,
        "correlation-id": cause.message_id,
    }


def last_message_in(engine: Engine) -> OutboxMessage:
    with Session(engine) as session:
        return session.scalars(select(OutboxMessage).order_by(OutboxMessage.id.desc()).limit(1)).one()
