"""A database of its own for each service and test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shop.orders.database import open_orders
from shop.warehouse.database import open_warehouse


@pytest.fixture(autouse=True)
def databases(tmp_path: Path) -> Iterator[None]:
    engines = [open_orders(tmp_path), open_warehouse(tmp_path)]
    yield
    for engine in engines:
        engine.dispose()
