"""Unions, generics, keys, records, aliases and defaults of typed events, and their form on the wire."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, make_dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, Literal, NamedTuple, NotRequired, Required, TypedDict, TypeVar
from uuid import UUID

import pytest
from marshmallow import ValidationError
from typing_extensions import TypeAliasType

from melange.errors import ConfigurationError
from melange.events import EventMessage
from melange.serialization.derivation import derived_schema

Item = TypeVar("Item")
Key = TypeVar("Key")
Bounded = TypeVar("Bounded", bound=int)


class Colour(Enum):
    RED = "red"
    OTHER = "other"


class Corner(Enum):
    ORIGIN = (0, 0)
    ELSEWHERE = ()


@dataclass(frozen=True)
class Card:
    number: str


@dataclass(frozen=True)
class Transfer:
    iban: str


@dataclass(frozen=True)
class Line:
    product_id: int = field(metadata={"name": "productId"})


@dataclass(frozen=True)
class Circle:
    radius: int
    kind: Literal["circle", "disc"] = "circle"


@dataclass(frozen=True)
class Square:
    side: int
    kind: Literal["square"] = "square"


@dataclass(frozen=True)
class Page(Generic[Item]):
    items: list[Item]
    following: Page[Item] | None = None


@dataclass(frozen=True)
class Pair(Generic[Item, Key]):
    first: Item
    second: Key


@dataclass(frozen=True)
class Swapped(Pair[Key, Item], Generic[Item, Key]):
    third: Item


@dataclass(frozen=True)
class Number(Generic[Bounded]):
    value: Bounded


class Point(NamedTuple):
    x: int
    y: Decimal = Decimal(0)


class Address(TypedDict):
    city: str
    since: NotRequired[date]


class Added(TypedDict):
    op: Literal["added"]
    count: int


class Removed(TypedDict):
    op: Literal["removed"]


class Partly(TypedDict, total=False):
    name: Required[str]
    age: int


Lines = TypeAliasType("Lines", list[Item], type_params=(Item,))
Tree = TypeAliasType("Tree", "int | list[Tree]")
Endless = TypeAliasType("Endless", "int | Endless")


def event_of(annotation: Any, **options: Any) -> type[EventMessage]:
    """Return an event class with one field, ``value``."""
    return make_dataclass(
        "Event", [("value", annotation, field(**options))], bases=(EventMessage,), frozen=True
    )


@pytest.mark.parametrize(
    ("annotation", "value", "written"),
    [
        (int | str, 5, 5),
        (int | str, "5", "5"),
        (int | float, 5.0, 5.0),
        (bool | int | None, True, True),
        (Decimal | int, Decimal("1.5"), "1.5"),
        (list[int] | Card, [1], [1]),
        (Card | Transfer, Card("4"), {"type": "Card", "number": "4"}),
        (Card | Transfer | str, Transfer("AT"), {"type": "Transfer", "iban": "AT"}),
        (list[Card | Transfer | None], [None, Card("4")], [None, {"type": "Card", "number": "4"}]),
        (Circle | Square, Circle(2, "disc"), {"radius": 2, "kind": "disc"}),
        (
            Page[Decimal],
            Page([Decimal(1)], Page([])),
            {"items": ["1"], "following": {"items": [], "following": None}},
        ),
        (Swapped[int, str], Swapped("a", 1, 2), {"first": "a", "second": 1, "third": 2}),
        (Page, Page([1, "a"]), {"items": [1, "a"], "following": None}),
        (Number, Number(1), {"value": 1}),
        (Sequence[int], [1], [1]),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (AbstractSet[int], {1}, [1]),
        (dict[int, str], {-1: "a"}, {"-1": "a"}),
        (dict[UUID, int], {UUID(int=1): 1}, {"00000000-0000-0000-0000-000000000001": 1}),
        (dict[date, bytes], {date(2026, 1, 2): b"\x00\xff"}, {"2026-01-02": "AP8="}),
        (dict[Colour, int], {Colour.RED: 1}, {"red": 1}),
        (dict[bool, int], {True: 1}, {"true": 1}),
        (dict[Literal["a", 1], int], {1: 1}, {"1": 1}),
        (bytes, b"", ""),
        (tuple[()], (), []),
        (Point, Point(1, Decimal(2)), [1, "2"]),
        (set[Point], {Point(1)}, [[1, "0"]]),
        (Address, {"city": "Graz", "since": date(2026, 1, 2)}, {"city": "Graz", "since": "2026-01-02"}),
        (Partly, {"name": "a"}, {"name": "a"}),
        (Lines[int], [1], [1]),
        (Tree, [1, [2, []]], [1, [2, []]]),
    ],
    ids=repr,
)
def test_values_have_this_form_on_the_wire_and_come_back(annotation: Any, value: Any, written: Any) -> None:
    event = event_of(annotation)(value)
    schema = derived_schema(type(event))

    body = schema.write(event)

    assert body is not None
    assert json.loads(body)["value"] == written
    assert schema.load(json.loads(body)) == event
    assert type(schema.load(json.loads(body)).value) is type(value)


@pytest.mark.parametrize(
    ("annotation", "written", "problem"),
    [
        (int | str, None, "Must be an integer or text"),
        (int | str, 5.5, "Must be an integer or text"),
        (Card | Transfer, {"number": "4"}, "Must have type: one of Card, Transfer"),
        (Card | Transfer, {"type": ["Card"]}, "Must have type: one of Card, Transfer"),
        (Card | Transfer, {"type": "Card"}, "Missing data"),
        (Circle | Square, {"kind": "oval"}, "Must have kind: one of circle, disc, square"),
        (dict[int, str], {"01": "a"}, "Must be an integer"),
        (dict[int, str], {"9" * 5_000: "a"}, "Must be an integer"),
        (dict[Decimal, int], {"1.0": 1, "1.00": 2}, "two keys for one value"),
        (dict[int, int], {str(n * sys.hash_info.modulus): 1 for n in range(200)}, "same hash"),
        (dict[Colour, int], {"blue": 1}, "Must be a Colour"),
        (bytes, "AP8", "Must be bytes in base64"),
        (bytes, "A-8=", "Must be bytes in base64"),
        (Point, {"x": 1}, "Must be a list of 2"),
        (Point, [], "Must be a list of 2"),
        (Address, {"since": "2026-01-02"}, "Missing data"),
        (Partly, {"age": 1}, "Missing data"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_other_values_are_refused_when_they_are_read(annotation: Any, written: Any, problem: str) -> None:
    schema = derived_schema(event_of(annotation))

    assert schema.read({"value": written}) is None
    with pytest.raises(ValidationError, match=problem):
        schema.load({"value": written})


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int | str, 5.5),
        (Card | Transfer, Circle(1)),
        (Circle | Square, Square(1, "circle")),  # type: ignore[arg-type]
        (Sequence[str], "text"),
        (dict[int, str], {True: "a"}),
        (bytes, bytearray(b"")),
        (Point, (1, Decimal(1))),
        (Address, {"city": "Graz", "zip": 8010}),
        (Address, {}),
    ],
    ids=repr,
)
def test_other_values_are_refused_when_they_are_written(annotation: Any, value: Any) -> None:
    event = event_of(annotation)(value)

    assert derived_schema(type(event)).write(event) is None
    with pytest.raises(ValidationError):
        derived_schema(type(event)).dump(event)


def test_named_tuples_may_grow_on_either_side() -> None:
    schema = derived_schema(event_of(Point))

    assert schema.load({"value": [1]}).value == Point(1)
    assert schema.load({"value": [1, "2", "new"]}).value == Point(1, Decimal(2))


def test_a_generic_event_gets_its_types_from_its_base() -> None:
    @dataclass(frozen=True)
    class Changed(EventMessage, Generic[Item]):
        old: Item
        new: Item

    @dataclass(frozen=True)
    class PriceChanged(Changed[Decimal]):
        reason: str

    event = PriceChanged(Decimal(1), Decimal(2), "sale")
    written = derived_schema(PriceChanged).dump(event)

    assert (written["old"], written["new"]) == ("1", "2")
    assert derived_schema(PriceChanged).load(written) == event


def test_fields_may_have_other_names_on_the_wire() -> None:
    @dataclass(frozen=True)
    class Order(EventMessage):
        order_id: int = field(metadata={"name": "order-id"})
        lines: list[Line] = field(metadata={"name": 'it\'s {0} "x"\\'})
        note: str | None = field(default=None, metadata={"name": "Note"})

    event = Order(7, [Line(1)], "x")
    schema = derived_schema(Order)
    body = json.loads(schema.write(event) or "")
    body.pop("occurred_on")

    assert body == {"order-id": 7, 'it\'s {0} "x"\\': [{"productId": 1}], "Note": "x"}
    assert schema.read(body) == event
    with pytest.raises(ValidationError) as refused:
        schema.load({"order_id": 7})
    assert list(refused.value.messages) == ["order-id", 'it\'s {0} "x"\\']


@pytest.mark.parametrize("name", ["", 5, "other", "event_type_name", "event_version", "occurred_on"])
def test_names_that_cannot_stand_on_the_wire_are_reported(name: Any) -> None:
    event_class = make_dataclass(
        "Event", [("other", int), ("value", int, field(metadata={"name": name}))], bases=(EventMessage,)
    )

    with pytest.raises(ConfigurationError, match=r"Event.*'value'.*name"):
        derived_schema(event_class)


def test_another_key_may_tell_the_classes_of_a_union_apart() -> None:
    event_class = event_of(list[Card | Transfer], metadata={"discriminator": "$kind"})
    event = event_class([Card("4")])  # type: ignore[call-arg]

    written = derived_schema(event_class).dump(event)

    assert written["value"] == [{"$kind": "Card", "number": "4"}]
    assert derived_schema(event_class).load(written) == event


def test_members_that_are_not_known_become_the_default() -> None:
    event_class = event_of(dict[str, list[Colour]], metadata={"unknown": Colour.OTHER})
    by_name = event_of(Corner | None, metadata={"unknown": Corner.ELSEWHERE})

    loaded = derived_schema(event_class).load({"value": {"a": ["red", "blue", 5]}})

    assert loaded.value == {"a": [Colour.RED, Colour.OTHER, Colour.OTHER]}
    assert derived_schema(by_name).load({"value": "MIDDLE"}).value is Corner.ELSEWHERE
    for wrong in (None, [], True, 1.5):
        with pytest.raises(ValidationError):
            derived_schema(event_class).load({"value": {"a": [wrong]}})


@pytest.mark.parametrize("metadata", [{"unknown": Corner.ORIGIN}, {"discriminator": "kind"}])
def test_metadata_that_fits_nothing_is_reported(metadata: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="fits nothing"):
        derived_schema(event_of(list[Colour], metadata=metadata))


def test_an_alias_that_is_only_itself_is_reported() -> None:
    with pytest.raises(ConfigurationError, match="'value'"):
        derived_schema(event_of(Endless))


def test_typed_dicts_in_a_union_have_a_tag_of_their_own() -> None:
    schema = derived_schema(event_of(Added | Removed))

    assert schema.load({"value": {"op": "removed"}}).value == {"op": "removed"}
    with pytest.raises(ValidationError, match="Must have op"):
        schema.load({"value": {}})
    with pytest.raises(ConfigurationError, match="needs a key"):
        derived_schema(event_of(Address | Partly))


def test_classes_within_a_union_may_contain_it() -> None:
    @dataclass(frozen=True)
    class Leaf:
        value: int

    @dataclass(frozen=True)
    class Sum:
        parts: tuple[Sum | Leaf, ...]

    Sum.__annotations__["parts"] = tuple[Sum | Leaf, ...]
    event = event_of(Sum | Leaf)(Sum((Leaf(1), Sum(()))))

    schema = derived_schema(type(event))

    assert schema.read(json.loads(schema.write(event) or "")) == event


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is from Python 3.12")
def test_aliases_and_generics_in_the_syntax_of_python_3_12() -> None:
    names: dict[str, Any] = {"dataclass": dataclass, "EventMessage": EventMessage, "__name__": __name__}
    code = (
        "type Json = None | int | list[Json]\n"
        "type Two[T] = tuple[T, T]\n"
        "@dataclass\n"
        "class Changed[T]:\n"
        "    values: Two[T]\n"
        "@dataclass\n"
        "class Event(EventMessage):\n"
        "    json: Json\n"
        "    changed: Changed[bytes]\n"
    )
    exec(compile(code, "<test>", "exec", dont_inherit=True), names)
    event = names["Event"]([1, [None]], names["Changed"]((b"a", b"b")))

    written = derived_schema(names["Event"]).dump(event)

    assert (written["json"], written["changed"]) == ([1, [None]], {"values": ["YQ==", "Yg=="]})
    assert derived_schema(names["Event"]).load(written) == event
