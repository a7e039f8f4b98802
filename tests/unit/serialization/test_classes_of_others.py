"""Classes of pydantic and attrs as events: what works, and refusals that say what does."""

from __future__ import annotations

from dataclasses import make_dataclass
from decimal import Decimal
from typing import Any

import attrs
import pytest
from pydantic import BaseModel
from pydantic import dataclasses as pydantic_dataclasses

from melange.errors import ConfigurationError
from melange.events import EventMessage
from melange.serialization.derivation import derived_schema


def event_of(annotation: Any) -> type[EventMessage]:
    """Return an event class with one field, ``value``."""
    return make_dataclass("Event", [("value", annotation)], bases=(EventMessage,))


def round_trip(event: EventMessage) -> Any:
    schema = derived_schema(type(event))
    return schema.load(schema.dump(event))


def test_pydantic_models_are_refused_with_the_way_out() -> None:
    for bases in [(BaseModel, EventMessage), (EventMessage, BaseModel)]:
        with pytest.raises(
            ConfigurationError, match=r"ProductAdded is a pydantic model.*EventModel.*dataclass"
        ):
            type(BaseModel)("ProductAdded", bases, {"__module__": __name__, "__annotations__": {"name": str}})


def test_pydantic_dataclasses_with_slots_are_events() -> None:
    @pydantic_dataclasses.dataclass(slots=True, frozen=True)
    class Order(EventMessage):
        count: int
        price: Decimal = Decimal(1)

    with pytest.raises(ValueError, match="valid integer"):
        Order("x")  # type: ignore[arg-type]
    assert round_trip(Order(1)) == Order(1)
    assert round_trip(Order(1)).occurred_on is not None


def test_pydantic_dataclasses_without_slots_are_reported() -> None:
    @pydantic_dataclasses.dataclass
    class Order(EventMessage):
        count: int

    with pytest.raises(ConfigurationError, match=r"Order is a pydantic dataclass without slots.*slots=True"):
        derived_schema(Order)


def test_pydantic_dataclasses_are_parts_of_events() -> None:
    @pydantic_dataclasses.dataclass
    class Part:
        count: int

    event = event_of(list[Part])([Part(1)])

    assert round_trip(event) == event


def test_attrs_classes_are_reported() -> None:
    @attrs.define
    class Order(EventMessage):
        count: int

    @attrs.define
    class Part:
        count: int

    with pytest.raises(ConfigurationError, match=r"Order \(an attrs class\) is not a dataclass.*EventSchema"):
        derived_schema(Order)
    with pytest.raises(ConfigurationError, match=r"'value' is annotated .*Part \(an attrs class\)"):
        derived_schema(event_of(list[Part]))
