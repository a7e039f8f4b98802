"""The listeners of the order service for events of the warehouse."""

from __future__ import annotations

from sqlalchemy.orm import Session

from melange import ExchangeMessageConsumer
from melange.outbox import Inbox
from shop import contract
from shop.orders import repository
from shop.orders.database import new_session
from shop.orders.unit_of_work import unit_of_work

QUEUE = "shop-orders"


def order_shipped(event: contract.OrderShipped, session: Session) -> None:
    with unit_of_work(session):
        repository.order(event.order_id).ship()


def out_of_stock(event: contract.OutOfStock, session: Session) -> None:
    with unit_of_work(session):
        repository.order(event.order_id).cancel(f"the warehouse lacks {event.missing}")


def make_consumer() -> ExchangeMessageConsumer:
    consumer = ExchangeMessageConsumer(QUEUE, contract.WAREHOUSE, deduplication=Inbox(new_session))
    consumer.listener(contract.OrderShipped)(order_shipped)
    consumer.listener(contract.OutOfStock)(out_of_stock)
    return consumer
