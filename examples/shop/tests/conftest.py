"""Databases and a broker for each test, and nothing in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from melange import DriverManager
from melange.outbox import OutboxRelay
from shop.orders import listeners as order_listeners
from shop.orders.database import open_orders
from shop.warehouse import listeners as warehouse_listeners
from shop.warehouse.database import open_warehouse


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[Engine]:
    engine = open_orders(tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Engine]:
    engine = open_warehouse(tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def process_everything(orders: Engine, warehouse: Engine) -> Iterator[Callable[[], None]]:
    """Return a function that relays and consumes until no message is left."""
    driver = DriverManager.instance().use_driver(driver_name="memory")
    relays = [OutboxRelay(orders), OutboxRelay(warehouse)]
    consumers = [order_listeners.make_consumer(), warehouse_listeners.make_consumer()]

    def process() -> None:
        while sum(relay.relay_pending() for relay in relays):
            for consumer in consumers:
                while consumer.consume_event(wait_seconds=0):
                    pass

    yield process
    driver.close()
