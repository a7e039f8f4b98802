"""The events that this service publishes and receives. Each service has its own classes for them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from melange import EventMessage


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    order_id: str
    total: Decimal


@dataclass(frozen=True)
class PaymentTaken(EventMessage):
    order_id: str


@dataclass(frozen=True)
class OrderShipped(EventMessage):
    order_id: str
    parcel: str
