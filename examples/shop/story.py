"""A day in the shop. Run ``python -m shop.story`` beside services that run as separate processes."""

from __future__ import annotations

import time
from pathlib import Path

from shop.orders.commands import AddProduct, OpenAccount, PlaceOrder, commands
from shop.orders.database import open_orders
from shop.orders.model import Refused, Status
from shop.orders.queries import CreditLeft, StatusOfOrder, queries

PATIENCE_SECONDS = 60


def a_day_in_the_shop() -> None:
    commands.send(OpenAccount("Ada", credit=10_000))
    commands.send(OpenAccount("Grace", credit=20_000))
    commands.send(AddProduct("lamp", "Lamp", price=2_500))

    order("Ada", 2)
    order("Ada", 4)  # refused at once: the credit of Ada is too low
    order("Grace", 4)  # refused later: the warehouse has only three
    order("Grace", 3)
    for customer in ("Ada", "Grace"):
        print(f"{customer} has {queries.ask(CreditLeft(customer))} cents left.")


def order(customer: str, quantity: int) -> None:
    """Place an order and wait until it is shipped or cancelled."""
    print(f"{customer} orders {quantity} lamps.")
    try:
        order_id = commands.send(PlaceOrder(customer, "lamp", quantity))
    except Refused as error:
        print(f"  refused: {error}")
        return
    deadline = time.monotonic() + PATIENCE_SECONDS
    while queries.ask(StatusOfOrder(order_id)) is Status.PLACED:
        if time.monotonic() > deadline:
            raise TimeoutError(f"order {order_id} is still open after {PATIENCE_SECONDS} seconds")
        time.sleep(0.05)


if __name__ == "__main__":
    open_orders(Path())  # sending commands needs no broker
    a_day_in_the_shop()
