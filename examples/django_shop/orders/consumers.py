"""The listeners of the project, run by ``manage.py melange_worker``."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from melange import ExchangeMessageConsumer
from orders.models import Order


@transaction.atomic
def pack(event: dict[str, Any]) -> None:
    Order.objects.filter(order_id=event["order_id"]).update(is_packed=True)


def make_consumer() -> ExchangeMessageConsumer:
    consumer = ExchangeMessageConsumer("packing", "orders")
    consumer.listener("OrderPlaced")(pack)
    return consumer
