"""The listeners of the warehouse for events of the order service."""

from __future__ import annotations

from sqlalchemy.orm import Session

from melange import ExchangeMessageConsumer, Retry
from melange.outbox import Inbox, Outbox
from shop.contract import ORDERS, WAREHOUSE, OrderPlaced, OrderShipped, OutOfStock, ProductAdded
from shop.warehouse.database import Shelf, new_session

QUEUE = "shop-warehouse"
FIRST_DELIVERY = 5
"""The quantity of a new product in its first delivery."""


def add_shelf(event: ProductAdded, session: Session) -> None:
    session.add(Shelf(sku=event.sku, name=event.name, quantity=FIRST_DELIVERY))
    print(f"  warehouse: {FIRST_DELIVERY} {event.name}s arrived")


def pack(event: OrderPlaced, session: Session) -> None:
    shelf = session.get(Shelf, event.sku, with_for_update=True)
    if shelf is None:
        raise Retry(delay_seconds=1)  # the order came before its product

    outbox = Outbox(session)
    missing = event.quantity - shelf.quantity
    if missing > 0:
        print(f"  warehouse: {event.quantity} {shelf.name}s are too many")
        outbox.publish(WAREHOUSE, OutOfStock(event.order_id, missing), key=event.order_id)
    else:
        shelf.quantity -= event.quantity
        print(f"  warehouse: packed {event.quantity} {shelf.name}s, {shelf.quantity} are left")
        outbox.publish(WAREHOUSE, OrderShipped(event.order_id), key=event.order_id)


def make_consumer() -> ExchangeMessageConsumer:
    consumer = ExchangeMessageConsumer(QUEUE, ORDERS, deduplication=Inbox(new_session))
    consumer.listener(ProductAdded)(add_shelf)
    consumer.listener(OrderPlaced)(pack)
    return consumer
