"""The events that are published and consumed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from melange import EventMessage

SMALL: dict[str, Any] = {
    "event_type_name": "ProductAdded",
    "product_id": 1,
    "name": "Coolers",
    "price": "12.50",
    "tags": ["summer", "garden"],
}

ORDER: dict[str, Any] = {
    "event_type_name": "OrderPlaced",
    "order_id": "7b2f6c1e-53a1-4b0e-9c0f-2f7f6f8a6d11",
    "customer_id": 48213,
    "placed_at": "2026-11-23T10:15:00+00:00",
    "currency": "EUR",
    "total": "149.70",
    "express": False,
    "note": None,
    "shipping_address": "12 Harbour Street, 8010 Graz",
    "lines": [
        {"product_id": 1, "name": "Coolers", "quantity": 2, "price": "12.50"},
        {"product_id": 17, "name": "Garden table", "quantity": 1, "price": "124.70"},
    ],
}


@dataclass(frozen=True)
class Line:
    """A line of an order."""

    product_id: int
    name: str
    quantity: int
    price: Decimal


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    """``ORDER`` as a typed event."""

    order_id: UUID
    customer_id: int
    placed_at: datetime
    currency: str
    total: Decimal
    express: bool
    note: str | None
    shipping_address: str
    lines: list[Line]


TYPED_ORDER = OrderPlaced(
    UUID("7b2f6c1e-53a1-4b0e-9c0f-2f7f6f8a6d11"),
    48213,
    datetime(2026, 11, 23, 10, 15, tzinfo=UTC),
    "EUR",
    Decimal("149.70"),
    express=False,
    note=None,
    shipping_address="12 Harbour Street, 8010 Graz",
    lines=[Line(1, "Coolers", 2, Decimal("12.50")), Line(17, "Garden table", 1, Decimal("124.70"))],
)


def described(event: dict[str, Any]) -> str:
    """Return the event's type, its number of fields and its size."""
    return f"{event['event_type_name']}, {len(event)} fields, {len(json.dumps(event))} bytes of JSON"
