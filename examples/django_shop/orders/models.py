"""The tables of the orders."""

from __future__ import annotations

from django.db import models

from orders.events import OrderPlaced


class Order(models.Model):
    order_id = models.CharField(max_length=64, primary_key=True)
    is_packed = models.BooleanField(default=False)

    class Meta:
        db_table = "orders"

    def __str__(self) -> str:
        return self.order_id

    @classmethod
    def place(cls, order_id: str) -> Order:
        order = cls.objects.create(order_id=order_id)
        OrderPlaced(order_id).emit()
        return order
