"""The tables of the domain's objects. The classes do not depend on them."""

from __future__ import annotations

from sqlalchemy import Column, Enum, Integer, String, Table
from sqlalchemy.orm import registry

from shop.orders.model import Account, Order, Product, Status

_mappings = registry()
metadata = _mappings.metadata

_mappings.map_imperatively(
    Product,
    Table(
        "products",
        metadata,
        Column("sku", String, primary_key=True),
        Column("name", String, nullable=False),
        Column("price", Integer, nullable=False),
    ),
)
_mappings.map_imperatively(
    Account,
    Table(
        "accounts",
        metadata,
        Column("customer", String, primary_key=True),
        Column("credit", Integer, nullable=False),
    ),
)
_mappings.map_imperatively(
    Order,
    Table(
        "orders",
        metadata,
        Column("order_id", String, primary_key=True),
        Column("customer", String, nullable=False),
        Column("sku", String, nullable=False),
        Column("quantity", Integer, nullable=False),
        Column("total", Integer, nullable=False),
        Column("status", Enum(Status), nullable=False),
    ),
)
