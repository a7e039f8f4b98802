"""pydantic models as events and as parts of events: written and validated by pydantic."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from melange import (
    DecodeError,
    EncodeError,
    EventMessage,
    EventSerializer,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueOptions,
)
from melange.drivers.memory import InMemoryDriver
from melange.messages import Message
from melange.pydantic import EventModel


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str


class Transfer(BaseModel):
    kind: Literal["transfer"] = "transfer"
    iban: str


class OrderPlaced(EventModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    event_version = 2

    order_id: int = Field(alias="orderId", ge=1)
    total: Decimal
    due: date | None = None
    payment: Annotated[Card | Transfer, Field(discriminator="kind")]
    tags: set[str] = Field(default_factory=set)

    @field_validator("tags")
    @classmethod
    def has_no_secret(cls, tags: set[str]) -> set[str]:
        if "secret" in tags:
            raise ValueError("has a tag that must not travel")
        return tags


EVENT = OrderPlaced(
    orderId=7, total=Decimal("9.90"), due=date(2026, 1, 2), payment=Card(number="4"), tags={"a"}
)
SERIALIZER = EventSerializer()


def round_trip(event: EventMessage) -> Any:
    name, body = SERIALIZER.encode(event)
    return SERIALIZER.load(*SERIALIZER.read(Message("id", body, name)), type(event))


def test_a_model_travels_in_pydantics_own_form() -> None:
    name, body = SERIALIZER.encode(EVENT)

    assert name == "OrderPlaced"
    assert json.loads(body) == {
        **EVENT.model_dump(mode="json", by_alias=True),
        "event_version": 2,
        "event_type_name": "OrderPlaced",
    }
    assert round_trip(EVENT) == EVENT
    assert round_trip(EVENT).occurred_on == EVENT.occurred_on


MODELS = st.builds(
    OrderPlaced,
    orderId=st.integers(1, 2**60),
    total=st.decimals(-(10**9), 10**9, allow_nan=False, places=2),
    due=st.none() | st.dates(),
    payment=st.builds(Card, number=st.text()) | st.builds(Transfer, iban=st.text()),
    tags=st.sets(st.text().filter(lambda tag: tag != "secret")),
)


@given(event=MODELS)
def test_models_come_back_as_they_were(event: OrderPlaced) -> None:
    assert round_trip(event) == event


def test_pydantic_validates_what_is_read_and_errors_quote_no_values() -> None:
    data = {
        "orderId": 0,
        "total": "hidden",
        "payment": {"kind": "card", "hidden": 1},
        "tags": ["secret"],
        "hidden": 1,
        "event_version": 2,
    }

    with pytest.raises(DecodeError) as refused:
        SERIALIZER.load("OrderPlaced", data, OrderPlaced)

    assert "orderId: Input should be greater than or equal to 1" in str(refused.value)
    assert "payment.*.number: Field required" in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_values_that_do_not_fit_are_refused_when_they_are_written() -> None:
    event = OrderPlaced.model_construct(order_id="hidden", payment=EVENT.payment)

    with pytest.raises(EncodeError, match="Must be a OrderPlaced with values of its types") as refused:
        SERIALIZER.encode(event)

    assert "hidden" not in str(refused.value)


def test_a_time_of_others_is_taken_as_utc() -> None:
    class Ping(EventModel):
        pass

    load = SERIALIZER.load

    assert load("Ping", {"occurred_on": "2026-01-02T00:00:00"}, Ping).occurred_on == datetime(
        2026, 1, 2, tzinfo=UTC
    )
    assert load("Ping", {"occurred_on": None}, Ping).occurred_on.tzinfo is not None
    assert load("Ping", {}, Ping) != Ping()


def test_the_name_of_the_type_may_be_set() -> None:
    class Ping(EventModel):
        event_type_name = "ping"

    assert SERIALIZER.encode(Ping())[0] == "ping"


def test_models_are_parts_of_dataclasses() -> None:
    @dataclass
    class Paid(EventMessage):
        cards: list[Card]
        last: Card | None = None

    event = Paid([Card(number="4")], Card(number="5"))

    assert round_trip(event) == event
    with pytest.raises(DecodeError, match=r"cards\[0\].number: Field required"):
        SERIALIZER.load("Paid", {"cards": [{}]}, Paid)


def test_listeners_receive_models() -> None:
    seen: list[Any] = []
    with InMemoryDriver() as driver:
        consumer = ExchangeMessageConsumer(
            "stock", "orders", driver=driver, queue=QueueOptions(wait_seconds=0)
        )
        consumer.listener(OrderPlaced, name="listener")(seen.append)
        ExchangeMessagePublisher("orders", driver).publish(EVENT)

        consumer.consume_event()

    assert seen == [EVENT]
