"""What is compiled from a schema and the schema itself agree on every value, good or bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from annotations import ANNOTATIONS, ANYTHING, JSON, TEXT, Annotated, Colour, event_of
from melange.errors import ConfigurationError
from melange.events import EventMessage
from melange.serialization.derivation import derived_schema
from melange.serialization.json import is_transportable, to_json

REFUSED = object()


def result_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result, or ``REFUSED`` for any exception."""
    try:
        return function(*arguments)
    except Exception:
        return REFUSED


def check_writing(event: EventMessage, *, is_good: bool) -> None:
    schema = derived_schema(type(event))
    judged = result_of(lambda: to_json(schema.dump(event)))

    compiled = result_of(schema.writer.write, event)

    if compiled is REFUSED:
        assert not is_good
    elif is_transportable(compiled):
        assert compiled == judged
    if is_good:
        assert judged is not REFUSED


def check_reading(event_class: type[EventMessage], data: Any, *, is_good: bool) -> None:
    schema = derived_schema(event_class)
    judged = result_of(schema.load, data)

    compiled = result_of(schema.reader.read, data)

    if compiled is not REFUSED:
        assert type(compiled) is type(judged)
        assert vars(compiled).keys() == vars(judged).keys()
        for name, value in vars(compiled).items():
            if name != "occurred_on":
                assert value == getattr(judged, name)
                assert type(value) is type(getattr(judged, name))
        if data.get("occurred_on") is not None:  # otherwise it is the time of reading
            assert repr(result_of(schema.dump, compiled)) == repr(result_of(schema.dump, judged))
    if is_good:
        assert compiled is not REFUSED


@given(data=st.data(), annotation=ANNOTATIONS)
def test_good_values_are_written_alike(data: st.DataObject, annotation: Annotated) -> None:
    event = event_of(annotation[0])(data.draw(annotation[1]))  # type: ignore[call-arg]

    check_writing(event, is_good=True)


@given(data=st.data(), annotation=ANNOTATIONS, other=ANNOTATIONS)
def test_values_of_another_type_are_written_alike_or_refused(
    data: st.DataObject, annotation: Annotated, other: Annotated
) -> None:
    event = event_of(annotation[0])(data.draw(other[1] | ANYTHING))  # type: ignore[call-arg]

    check_writing(event, is_good=False)


@given(data=st.data(), annotation=ANNOTATIONS)
def test_good_data_is_read_alike(data: st.DataObject, annotation: Annotated) -> None:
    event_class = event_of(annotation[0])
    event = event_class(data.draw(annotation[1]))  # type: ignore[call-arg]

    check_reading(event_class, json.loads(to_json(derived_schema(event_class).dump(event))), is_good=True)


@given(data=st.data(), annotation=ANNOTATIONS, other=ANNOTATIONS)
def test_data_of_another_type_is_read_alike_or_refused(
    data: st.DataObject, annotation: Annotated, other: Annotated
) -> None:
    other_class = event_of(other[0])
    written = derived_schema(other_class).dump(other_class(data.draw(other[1])))  # type: ignore[call-arg]
    body = data.draw(st.one_of(st.just(written), JSON.map(lambda value: {"value": value}), JSON))

    check_reading(event_of(annotation[0]), body, is_good=False)


@given(
    names=st.lists(TEXT.filter(bool), min_size=1, max_size=4, unique=True),
    data=st.data(),
    annotation=ANNOTATIONS,
)
def test_fields_with_any_name_on_the_wire_are_written_and_read_alike(
    names: list[str], data: st.DataObject, annotation: Annotated
) -> None:
    members = [
        (f"field_{number}", annotation[0], field(metadata={"name": name}))
        for number, name in enumerate(names)
    ]
    try:
        event_class = make_dataclass("Event", members, bases=(EventMessage,), frozen=True)
        derived_schema(event_class)
    except ConfigurationError:  # one of melange's own names
        assume(False)
    event = event_class(*(data.draw(annotation[1]) for _ in names))

    check_writing(event, is_good=True)
    check_reading(event_class, json.loads(to_json(derived_schema(event_class).dump(event))), is_good=True)


# Classes with constructors, defaults and names of all kinds


@dataclass(frozen=True)
class Plain(EventMessage):
    number: int
    text: str = "x"
    tags: list[str] = field(default_factory=list)
    colour: Colour | None = None


@dataclass(kw_only=True)
class KeywordsOnly(EventMessage):
    number: int
    text: str | None = None


@dataclass
class SetAfterwards(EventMessage):
    number: int
    doubled: int = field(init=False)
    factor: InitVar[int] = 2

    def __post_init__(self, factor: int) -> None:
        self.doubled = self.number * factor


@dataclass
class Normalising(EventMessage):
    text: str
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.text = self.text.strip()
        self.tags.append("seen")


@dataclass(init=False)
class OwnConstructor(EventMessage):
    text: str
    number: int

    def __init__(self, number: int, *others: Any, text: str = "y") -> None:
        self.number = number
        self.text = text.upper()


@dataclass
class OwnDefaults(EventMessage):
    number: int
    text: Any = None

    def __init__(self, text: Any = "own", number: int = 5) -> None:
        self.text = text
        self.number = number


@dataclass
class WrongDefault(EventMessage):
    number: int = None  # type: ignore[assignment]


@dataclass
class OwnTime(EventMessage):
    occurred_on: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Nested(EventMessage):
    nodes: dict[str, tuple[Plain | None, ...]]
    price: Decimal | None = None
    id: UUID | None = None
    child: Nested | None = None


ODD_NAMES = ("self", "data", "value", "value_0", "text_1", "missing", "Unfit", "made", "depth", "ß")
Odd = make_dataclass("Odd", [(name, int) for name in ODD_NAMES], bases=(EventMessage,))
ODD = Odd(**dict.fromkeys(ODD_NAMES, 5))


@dataclass(init=False, repr=False, eq=False)
class Hostile(EventMessage):
    """Names that no class statement can give, and that would be code if they stood in generated text."""

    __annotations__ = {"a', exit()) #": int, "a.b": int, 'x":{0}"': int, "None": int}

    def __init__(self, **values: int) -> None:
        vars(self).update(values)

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


HOSTILE = Hostile(**dict.fromkeys(Hostile.__annotations__, 5))

EVENTS: dict[type[EventMessage], st.SearchStrategy[Any]] = {
    Plain: st.builds(Plain, st.integers(), TEXT, st.lists(TEXT), st.none() | st.sampled_from(Colour)),
    KeywordsOnly: st.builds(KeywordsOnly, number=st.integers(), text=st.none() | TEXT),
    SetAfterwards: st.builds(SetAfterwards, st.integers()),
    Normalising: st.builds(Normalising, TEXT, st.lists(TEXT)),
    OwnConstructor: st.builds(OwnConstructor, st.integers(), text=TEXT),
    OwnDefaults: st.builds(OwnDefaults, JSON, st.integers()),
    WrongDefault: st.builds(WrongDefault, st.integers() | st.none()),
    OwnTime: st.builds(OwnTime, st.datetimes(timezones=st.none() | st.just(UTC))),
    Nested: st.builds(
        Nested,
        st.dictionaries(TEXT, st.lists(st.none() | st.builds(Plain, st.integers())).map(tuple), max_size=3),
        st.none() | st.decimals(-9, 9, allow_nan=False),
        st.none() | st.uuids(),
        st.none() | st.builds(Nested, st.just({})),
    ),
    Odd: st.just(ODD),
    Hostile: st.just(HOSTILE),
}


@pytest.mark.parametrize("event_class", EVENTS, ids=lambda event_class: event_class.__name__)
@given(data=st.data())
def test_every_kind_of_class_is_written_and_read_alike(
    data: st.DataObject, event_class: type[EventMessage]
) -> None:
    event = data.draw(EVENTS[event_class])
    check_writing(event, is_good=False)
    written = result_of(derived_schema(event_class).dump, event)
    if written is REFUSED:
        return
    spoilt = {
        key: data.draw(st.just(value) | JSON) for key, value in written.items() if data.draw(st.booleans())
    }

    check_reading(event_class, written, is_good=False)
    check_reading(event_class, spoilt, is_good=False)


@pytest.mark.parametrize(
    "event",
    [
        Plain(1),
        KeywordsOnly(number=1),
        SetAfterwards(1),
        Normalising("x"),
        OwnDefaults(),
        OwnTime(),
        Nested({"a": (Plain(1), None)}, Decimal(1), UUID(int=1), Nested({})),
        ODD,
        HOSTILE,
    ],
    ids=lambda event: type(event).__name__,
)
def test_the_compiled_functions_do_the_work(event: EventMessage) -> None:
    schema = derived_schema(type(event))

    written = schema.write(event)

    assert written == to_json(schema.dump(event))
    assert schema.read(json.loads(written)) == schema.load(json.loads(written))
    assert schema.read(json.loads(written)) is not None
