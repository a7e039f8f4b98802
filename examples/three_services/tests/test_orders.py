"""The service for orders, with its endpoints, worker and relay."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from melange import ExchangeMessagePublisher
from melange.testing import Harness
from three_services.orders.app import make_app
from three_services.orders.events import OrderPlaced, OrderShipped, PaymentTaken


@pytest.fixture
def client(melange: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("ORDERS_DATABASE", str(tmp_path / "orders.db"))
    with TestClient(make_app()) as client:
        yield client


def place(client: TestClient) -> str:
    order_id: str = client.post("/orders", params={"total": "9.90"}).json()
    return order_id


def test_an_order_is_published(melange: Harness, client: TestClient) -> None:
    order_id = place(client)
    melange.settle()

    assert melange.published(OrderPlaced) == [OrderPlaced(order_id, Decimal("9.90"))]


def test_an_order_is_paid_then_shipped(melange: Harness, client: TestClient) -> None:
    order_id = place(client)
    states: list[str] = []

    for topic, event in [
        ("payments", PaymentTaken(order_id)),
        ("shipping", OrderShipped(order_id, "parcel-1")),
        ("payments", PaymentTaken(order_id)),  # comes late
    ]:
        ExchangeMessagePublisher(topic).publish(event)
        melange.settle()
        states.append(client.get(f"/orders/{order_id}").json())

    assert states == ["paid", "shipped", "shipped"]
    melange.nothing_failed()
