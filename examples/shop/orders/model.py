"""The domain of the order service. It does not depend on databases, sessions or queues.

Amounts are in cents.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from shop.orders.events import OrderCancelled, OrderPlaced, OrderShipped, ProductAdded


class Refused(Exception):
    """A rule of the shop forbids it."""


@dataclass(eq=False)
class Product:
    sku: str
    name: str
    price: int

    @classmethod
    def add(cls, sku: str, name: str, price: int) -> Self:
        if price <= 0:
            raise Refused(f"{name} would cost nothing")
        ProductAdded(sku, name).emit()
        return cls(sku, name, price)


@dataclass(eq=False)
class Account:
    """The credit of a customer."""

    customer: str
    credit: int

    def charge(self, amount: int) -> None:
        if amount > self.credit:
            raise Refused(f"{self.customer} has {self.credit} left, and this costs {amount}")
        self.credit -= amount

    def refund(self, amount: int) -> None:
        self.credit += amount


class Status(StrEnum):
    PLACED = "placed"
    SHIPPED = "shipped"
    CANCELLED = "cancelled"


@dataclass(eq=False)
class Order:
    order_id: str
    customer: str
    sku: str
    quantity: int
    total: int
    status: Status = Status.PLACED

    @classmethod
    def place(cls, order_id: str, customer: str, product: Product, quantity: int) -> Self:
        if quantity < 1:
            raise Refused("nothing was ordered")
        order = cls(order_id, customer, product.sku, quantity, product.price * quantity)
        OrderPlaced(order_id, customer, product.sku, quantity, order.total).emit()
        return order

    def ship(self) -> None:
        self._leave_placed_for(Status.SHIPPED)
        OrderShipped(self.order_id, self.customer).emit()

    def cancel(self, reason: str) -> None:
        self._leave_placed_for(Status.CANCELLED)
        OrderCancelled(self.order_id, self.customer, self.total, reason).emit()

    def _leave_placed_for(self, status: Status) -> None:
        if self.status is not Status.PLACED:
            raise Refused(f"order {self.order_id} was {self.status} before")
        self.status = status
