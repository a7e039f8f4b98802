"""A consumer in the process of a web application: its worker runs from start-up to shut-down."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from melange import DriverManager, ExchangeMessageConsumer, ExchangeMessagePublisher, Worker

orders = ExchangeMessagePublisher("orders")


def make_consumer() -> ExchangeMessageConsumer:
    consumer = ExchangeMessageConsumer("mailing", "orders")

    @consumer.listener("OrderPlaced")
    async def send_mail(event: dict[str, Any]) -> None:
        with Path(os.environ["MAILS"]).open("a") as mails:
            mails.write(f"{event['order_id']}\n")

    return consumer


@asynccontextmanager
async def messaging(_app: object) -> AsyncIterator[None]:
    DriverManager.instance().use_driver(driver_name=os.environ.get("DRIVER", "memory"))  # "aws" in production
    async with Worker(make_consumer(), grace_seconds=10).lifespan():  # listeners run on this event loop
        yield


async def place_order(order_id: str) -> str:
    """Publish an order; return its message id when the broker has accepted it."""
    return await orders.publish_async({"event_type_name": "OrderPlaced", "order_id": order_id})
