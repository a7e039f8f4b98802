"""The queries of the order service. They change nothing."""

from __future__ import annotations

from dataclasses import dataclass

from melange.cqrs import Query, QueryBus
from shop.orders.database import new_session
from shop.orders.model import Account, Order, Status

queries = QueryBus()


@dataclass(frozen=True)
class StatusOfOrder(Query[Status]):
    order_id: str


@dataclass(frozen=True)
class CreditLeft(Query[int]):
    customer: str


@queries.handler
def status_of_order(query: StatusOfOrder) -> Status:
    with new_session() as session:
        return session.get_one(Order, query.order_id).status


@queries.handler
def credit_left(query: CreditLeft) -> int:
    with new_session() as session:
        return session.get_one(Account, query.customer).credit
