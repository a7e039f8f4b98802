"""The consumers of both services as separate processes, on SNS and SQS, with databases in the working directory."""

from __future__ import annotations

from pathlib import Path

from melange import DriverManager, ExchangeMessageConsumer
from shop.orders import listeners as order_listeners
from shop.orders.database import open_orders
from shop.warehouse import listeners as warehouse_listeners
from shop.warehouse.database import open_warehouse


def orders() -> ExchangeMessageConsumer:
    DriverManager.instance().use_driver(driver_name="aws")
    open_orders(Path())
    return order_listeners.make_consumer()


def warehouse() -> ExchangeMessageConsumer:
    DriverManager.instance().use_driver(driver_name="aws")
    open_warehouse(Path())
    return warehouse_listeners.make_consumer()
