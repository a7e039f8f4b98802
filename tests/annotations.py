"""Every annotation of events, with the values that it stands for, for property tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from typing import Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from typing_extensions import TypeAliasType

from melange.events import EventMessage


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Corner(Enum):
    ORIGIN = (0, 0)
    FAR = (9, 9)


class Access(Flag):
    READ = 1
    WRITE = 2


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda items: st.lists(items) | st.dictionaries(TEXT, items),
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.decimals()
    | st.datetimes()
    | st.just(object()),
    lambda items: (
        st.lists(items)
        | st.tuples(items)
        | st.dictionaries(st.text(st.characters()) | st.integers() | st.none() | st.booleans(), items)
        | st.sets(st.integers())
    ),
)


Item = TypeVar("Item")


@dataclass(frozen=True)
class Card:
    number: str


@dataclass(frozen=True)
class Transfer:
    iban: str | None
    days: int = 0


@dataclass(frozen=True)
class Circle:
    kind: Literal["circle", "disc"]
    radius: float


@dataclass(frozen=True)
class Square:
    side: int
    kind: Literal["square"] = "square"


@dataclass(frozen=True)
class Page(Generic[Item]):
    items: tuple[Item, ...]
    following: Page[Item] | None = None


class Point(NamedTuple):
    x: int
    label: str = "none"
    day: date | None = None


class Address(TypedDict):
    city: str
    since: NotRequired[date]


Json = TypeAliasType("Json", "bool | int | float | str | list[Json] | dict[str, Json] | None")


@dataclass(frozen=True)
class Tagged(EventMessage):
    tag: Any
    place: tuple[int, str] | None = None


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | FLOATS | TEXT
OFFSETS = st.integers(-80_000, 80_000).map(lambda seconds: timezone(timedelta(seconds=seconds)))
HASHABLE_VALUES: dict[Any, SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(),
    float: FLOATS,
    bool: st.booleans(),
    Decimal: st.builds(
        lambda sign, digits, exponent: Decimal((sign, tuple(map(int, str(digits))), exponent)),
        st.sampled_from([0, 1]),
        st.integers(0, 10**100),
        st.integers(-6_000, 6_000),
    ),
    UUID: st.uuids(),
    datetime: st.datetimes(timezones=st.none() | OFFSETS),
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(timedelta(days=-49_000), timedelta(days=49_000)),
    Colour: st.sampled_from(Colour),
    Level: st.sampled_from(Level),
    Corner: st.sampled_from(Corner),
    Access: st.sampled_from([Access(0), *Access, Access.READ | Access.WRITE]),
    Literal["a", 1, True, None]: st.sampled_from(["a", 1, True, None]),
    Tagged: st.builds(Tagged, SCALARS | st.tuples(SCALARS), st.none() | st.tuples(st.integers(), TEXT)),
    Any: SCALARS | st.tuples(SCALARS, st.tuples(SCALARS)),
    bytes: st.binary(),
    Point: st.builds(Point, st.integers(), TEXT, st.none() | st.dates()),
    Card | Transfer: st.builds(Card, TEXT) | st.builds(Transfer, st.none() | TEXT, st.integers()),
    Circle | Square | None: st.none()
    | st.builds(Circle, st.sampled_from(["circle", "disc"]), FLOATS)
    | st.builds(Square, st.integers()),
    int | Decimal | bool | Card: st.integers() | st.booleans() | st.decimals(-9, 9) | st.builds(Card, TEXT),
    float | int | Colour: FLOATS | st.integers() | st.sampled_from(Colour),
    Page[UUID]: st.builds(Page, st.lists(st.uuids(), max_size=2).map(tuple)),
}
KEYS = (
    str,
    int,
    bool,
    UUID,
    date,
    datetime,
    time,
    Decimal,
    bytes,
    Colour,
    Level,
    Corner,
    Access,
    Literal["a", 1],
)
KEY_VALUES = {**HASHABLE_VALUES, Literal["a", 1]: st.sampled_from(["a", 1])}
PLAIN_VALUES = {
    **HASHABLE_VALUES,
    Any: JSON,
    list: st.lists(JSON),
    dict: st.dictionaries(TEXT, JSON),
    Json: JSON,
    Address: st.fixed_dictionaries({"city": TEXT}, optional={"since": st.dates()}),
    list[int] | dict[str, int] | str: st.lists(st.integers()) | st.dictionaries(TEXT, st.integers()) | TEXT,
    Sequence[int]: st.lists(st.integers()),
    Page[Json]: st.builds(Page, st.lists(JSON, max_size=2).map(tuple)),
    Tagged: st.builds(Tagged, JSON, st.none() | st.tuples(st.integers(), TEXT)),
}

Annotated = tuple[Any, SearchStrategy[Any]]
"""An annotation, and the values that it stands for."""


def containers(items: SearchStrategy[Annotated]) -> SearchStrategy[Annotated]:
    """Return what can stand wherever its items can."""
    return st.one_of(
        items.map(lambda item: (tuple[item[0], ...], st.lists(item[1], max_size=4).map(tuple))),
        st.tuples(items, items).map(
            lambda pair: (tuple[pair[0][0], pair[1][0]], st.tuples(pair[0][1], pair[1][1]))
        ),
        items.map(lambda item: (item[0] | None if item[0] is not Any else Any, st.none() | item[1])),
    )


HASHABLE = st.recursive(
    st.sampled_from(list(HASHABLE_VALUES.items())),
    lambda items: (
        containers(items) | items.map(lambda item: (frozenset[item[0]], st.frozensets(item[1], max_size=4)))
    ),
    max_leaves=4,
)
ANNOTATIONS = st.recursive(
    st.sampled_from(list(PLAIN_VALUES.items()))
    | HASHABLE.map(lambda item: (set[item[0]], st.sets(item[1], max_size=4)))
    | HASHABLE.map(lambda item: (frozenset[item[0]], st.frozensets(item[1], max_size=4))),
    lambda items: st.one_of(
        containers(items),
        items.map(lambda item: (list[item[0]], st.lists(item[1], max_size=4))),
        items.map(lambda item: (dict[str, item[0]], st.dictionaries(TEXT, item[1], max_size=4))),
        st.tuples(st.sampled_from(KEYS), items).map(
            lambda pair: (
                Mapping[pair[0], pair[1][0]],
                st.dictionaries(KEY_VALUES[pair[0]], pair[1][1], max_size=4),
            )
        ),
    ),
    max_leaves=4,
)


def event_of(annotation: Any) -> type[EventMessage]:
    return make_dataclass("Event", [("value", annotation)], bases=(EventMessage,), frozen=True)
