"""Versions of event types: upcasters turn old bodies into new ones before any listener sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from melange.errors import ConfigurationError, DecodeError, DuplicateHandlerError
from melange.events import EventMessage
from melange.messages import Message
from melange.serialization.serializer import EventSerializer


@dataclass(frozen=True)
class OrderPlaced(EventMessage):
    event_version = 3

    order_id: int
    currency: str
    total: str


@pytest.fixture
def serializer() -> EventSerializer:
    serializer = EventSerializer()

    @serializer.upcast("OrderPlaced", 1)
    def with_currency(body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "currency": "EUR"}

    @serializer.upcast(OrderPlaced, 2)
    def with_total(body: dict[str, Any]) -> dict[str, Any]:
        body["total"] = body.pop("price")
        return body

    return serializer


def read(serializer: EventSerializer, body: str) -> Any:
    name, data = serializer.read(Message("id", body, "OrderPlaced"))
    return serializer.load(name, data, OrderPlaced)


@pytest.mark.parametrize(
    "body",
    [
        '{"order_id": 7, "price": "1"}',
        '{"order_id": 7, "price": "1", "event_version": 1}',
        '{"order_id": 7, "price": "1", "currency": "EUR", "event_version": 2}',
        '{"order_id": 7, "total": "1", "currency": "EUR", "event_version": 3}',
    ],
)
def test_bodies_of_every_version_are_read(serializer: EventSerializer, body: str) -> None:
    assert read(serializer, body) == OrderPlaced(7, "EUR", "1")


def test_the_version_of_a_class_travels(serializer: EventSerializer) -> None:
    event = OrderPlaced(7, "EUR", "1")

    _, body = serializer.encode(event)

    assert body.endswith(',"event_version":3,"event_type_name":"OrderPlaced"}')
    assert read(serializer, body) == event


def test_listeners_that_receive_dicts_receive_the_newest_version(serializer: EventSerializer) -> None:
    _, data = serializer.read(Message("id", '{"order_id": 7, "price": "1"}', "OrderPlaced"))

    assert data == {
        "order_id": 7,
        "currency": "EUR",
        "total": "1",
        "event_version": 3,
        "event_type_name": "OrderPlaced",
    }


def test_a_version_from_the_future_is_refused_with_the_way_out(serializer: EventSerializer) -> None:
    with pytest.raises(DecodeError, match=r"its version is 4, .* knows 3: deploy its consumers first"):
        read(serializer, '{"event_version": 4}')


def test_a_version_without_an_upcaster_is_refused_with_the_way_out() -> None:
    with pytest.raises(DecodeError, match=r"its version is 1, and no upcaster .*@upcast\('OrderPlaced', 1\)"):
        read(EventSerializer(), '{"order_id": 7, "price": "1"}')


def test_a_field_of_others_with_that_name_is_no_version() -> None:
    @dataclass(frozen=True)
    class Ping(EventMessage):
        count: int

    loaded = EventSerializer().load("Ping", {"count": 1, "event_version": "v2"}, Ping)

    assert loaded == Ping(1)


@pytest.mark.parametrize(
    "failing", [lambda body: body["secret"], lambda body: None], ids=["raises", "returns nothing"]
)
def test_a_failing_upcaster_makes_the_message_malformed_and_quotes_nothing(failing: Any) -> None:
    serializer = EventSerializer()
    serializer.upcast("Ping", 1)(failing)

    with pytest.raises(
        DecodeError, match=r"the upcaster for version 1 of 'Ping' (fails with KeyError|returns)"
    ) as refused:
        serializer.read(Message("id", '{"a": "secret value"}', "Ping"))

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("event", "version"), [("", 1), (5, 1), (dict, 1), ("Ping", 0), ("Ping", True), ("Ping", "1")]
)
def test_wrong_registrations_are_reported(event: Any, version: Any) -> None:
    with pytest.raises(ConfigurationError, match="upcast"):
        EventSerializer().upcast(event, version)(dict)


def test_a_second_upcaster_for_a_version_is_reported(serializer: EventSerializer) -> None:
    with pytest.raises(DuplicateHandlerError, match="version 1 of 'OrderPlaced'"):
        serializer.upcast("OrderPlaced", 1)(dict)


@pytest.mark.parametrize("version", [0, "2", True, 1.5])
def test_versions_that_are_no_versions_are_reported(version: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Event.event_version must be an integer"):
        type("Event", (EventMessage,), {"event_version": version})


def test_a_version_is_not_inherited() -> None:
    class Child(OrderPlaced):
        pass

    assert Child.event_version == 1
