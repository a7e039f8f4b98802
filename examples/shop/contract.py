"""The events that the two services exchange: the only code that they share."""

from __future__ import annotations

from dataclasses import dataclass

from melange import EventMessage

ORDERS = "shop-orders"
"""The topic of the order service."""
WAREHOUSE = "shop-warehouse"
"""The topic of the warehouse."""


@dataclass(frozen=True)
class ProductAdded(EventMessage):
    sku: str
    name: str


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    order_id: str
    sku: str
    quantity: int


@dataclass(frozen=True)
class OrderShipped(EventMessage):
    order_id: str


@dataclass(frozen=True)
class OutOfStock(EventMessage):
    order_id: str
    missing: int
