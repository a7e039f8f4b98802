"""What type checkers know about events. Not run: mypy and pyright read it, both strict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

from pydantic import Field

from melange import (
    EventMessage,
    EventSerializer,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    masked_body,
    upcast,
)
from melange.drivers.memory import InMemoryDriver
from melange.large_events import LargeEvents, MemoryStore, PayloadStore, S3Store
from melange.pydantic import EventModel

Item = TypeVar("Item")


class Carrier(Enum):
    POST = "post"
    OTHER = "other"


class Point(NamedTuple):
    x: int
    y: int


class Address(TypedDict):
    city: str


@dataclass(frozen=True)
class Card:
    number: str = field(metadata={"sensitive": True})


@dataclass(frozen=True)
class Transfer:
    iban: str
    kind: Literal["transfer"] = "transfer"


@dataclass(frozen=True)
class Changed(EventMessage, Generic[Item]):
    old: Item
    new: Item


@dataclass(frozen=True)
class PriceChanged(Changed[Decimal]):
    event_type_name = "price-changed"
    event_version = 2

    product_id: UUID
    payment: Card | Transfer
    counts: Mapping[int, Sequence[Point]]
    address: Address
    content: bytes = b""
    carrier: Carrier = field(default=Carrier.POST, metadata={"unknown": Carrier.OTHER, "name": "sentBy"})


class ProductPriced(EventModel):
    event_type_name = "product-priced"

    product_id: int = Field(ge=1)
    price: Decimal


def fields_have_the_types_of_the_class(consumer: ExchangeMessageConsumer) -> None:
    @consumer.listener(PriceChanged)
    def price(event: PriceChanged) -> Decimal:
        return event.new

    @consumer.listener(ProductPriced)
    def model(event: ProductPriced) -> Decimal:
        return event.price

    PriceChanged(Decimal(1), "2", UUID(int=1), Card("4"), {}, {"city": "Graz"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@upcast("price-changed", 1)
def with_address(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "address": {"city": "Graz"}}


@EventSerializer.instance().upcast(ProductPriced, 1)
def unchanged(body: dict[str, Any]) -> dict[str, Any]:
    return body


def an_upcaster_keeps_its_type() -> dict[str, Any]:
    upcast("price-changed", 2)(len)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    return with_address({})


def bodies_can_be_printed(event: PriceChanged) -> str:
    return masked_body(event) + masked_body("{}", "price-changed") + masked_body({"event_type_name": "A"})


def large_events_take_any_store(store: PayloadStore) -> ExchangeMessagePublisher:
    LargeEvents(InMemoryDriver(), S3Store("bucket"), compression="zstd")
    LargeEvents(InMemoryDriver(), MemoryStore(), compression="brotli")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return ExchangeMessagePublisher("orders", LargeEvents(InMemoryDriver(), store))
