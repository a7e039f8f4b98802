"""The warehouse's listeners: functions of an event and a session."""

from __future__ import annotations

import pytest

from melange import Retry
from shop.contract import OrderPlaced
from shop.warehouse.database import new_session
from shop.warehouse.listeners import pack


def test_an_order_before_its_product_is_retried() -> None:
    with new_session() as session, pytest.raises(Retry):
        pack(OrderPlaced("order-1", "lamp", 1), session)
