"""The payments."""

from __future__ import annotations

from django.db import models


class Payment(models.Model):
    order_id = models.CharField(max_length=36, unique=True)
    amount = models.DecimalField(max_digits=12, decimal_places=2)
