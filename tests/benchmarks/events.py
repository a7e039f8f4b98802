"""The events that are published and consumed."""

from __future__ import annotations

import json
from typing import Any

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


def described(event: dict[str, Any]) -> str:
    """Return the event's type, its number of fields and its size."""
    return f"{event['event_type_name']}, {len(event)} fields, {len(json.dumps(event))} bytes of JSON"
