"""The domain events of the order service."""

from __future__ import annotations

from dataclasses import dataclass

from melange import DomainEvent


@dataclass(frozen=True)
class ProductAdded(DomainEvent):
    sku: str
    name: str


@dataclass(frozen=True)
class OrderPlaced(DomainEvent):
    order_id: str
    customer: str
    sku: str
    quantity: int
    total: int


@dataclass(frozen=True)
class OrderShipped(DomainEvent):
    order_id: str
    customer: str


@dataclass(frozen=True)
class OrderCancelled(DomainEvent):
    order_id: str
    customer: str
    total: int
    reason: str
