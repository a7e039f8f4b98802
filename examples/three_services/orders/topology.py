"""What the service needs at the broker: ``melange topology plan three_services.orders.topology:declare``."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import async_sessionmaker

from melange import DriverManager
from melange.topology import Publication
from three_services.orders.consumers import make_consumer
from three_services.orders.events import OrderPlaced


def declare() -> list[object]:
    DriverManager.instance().use_driver(driver_name="aws")
    return [make_consumer(async_sessionmaker()), Publication("orders", OrderPlaced)]
