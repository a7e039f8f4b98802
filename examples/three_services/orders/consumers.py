"""What the service does when others tell it what happened."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from melange import ExchangeMessageConsumer
from melange.outbox import Inbox
from three_services.orders.database import Order
from three_services.orders.events import OrderShipped, PaymentTaken


def make_consumer(new_session: async_sessionmaker[AsyncSession]) -> ExchangeMessageConsumer:
    consumer = ExchangeMessageConsumer("orders", "payments", "shipping", deduplication=Inbox(new_session))

    @consumer.listener(PaymentTaken)
    async def mark_paid(event: PaymentTaken, session: AsyncSession) -> None:
        order = await session.get_one(Order, event.order_id, with_for_update=True)
        if order.state == "placed":  # events of two topics may come in any order
            order.state = "paid"

    @consumer.listener(OrderShipped)
    async def mark_shipped(event: OrderShipped, session: AsyncSession) -> None:
        order = await session.get_one(Order, event.order_id, with_for_update=True)
        order.state = "shipped"

    return consumer
