"""Whatever is thrown at the serializer: good events come back as they were, nothing foreign is raised."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from annotations import ANNOTATIONS, ANYTHING, JSON, TEXT, Annotated, Colour, event_of
from melange.drivers.sqs_rules import check_message
from melange.errors import DecodeError, EncodeError
from melange.events import EventMessage
from melange.messages import Message
from melange.serialization.serializer import EventSerializer


@dataclass(frozen=True)
class Line:
    product_id: UUID
    price: Decimal
    colour: Colour | None


@dataclass(frozen=True)
class Ordered(EventMessage):
    text: str
    number: int
    ratio: float
    flag: bool
    moment: datetime
    day: date
    clock: time
    duration: timedelta
    lines: list[Line]
    tags: frozenset[str]
    pair: tuple[int, str]
    counts: dict[str, tuple[int | None, ...]]
    parent: Ordered | None = None
    notes: list[str] = field(default_factory=list)


LINES = st.builds(
    Line,
    st.uuids(),
    st.decimals(-(10**50), 10**50, allow_nan=False, allow_infinity=False),
    st.none() | st.sampled_from(Colour),
)


def orders(parents: SearchStrategy[Ordered | None]) -> SearchStrategy[Ordered]:
    return st.builds(
        Ordered,
        text=TEXT,
        number=st.integers(),
        ratio=st.floats(allow_nan=False, allow_infinity=False),
        flag=st.booleans(),
        moment=st.datetimes(timezones=st.none() | st.just(UTC)),
        day=st.dates(),
        clock=st.times(),
        # Seconds are written as a float, exact to the microsecond up to 136 years.
        duration=st.timedeltas(timedelta(days=-49_000), timedelta(days=49_000)),
        lines=st.lists(LINES, max_size=3),
        tags=st.frozensets(TEXT, max_size=3),
        pair=st.tuples(st.integers(), TEXT),
        counts=st.dictionaries(TEXT, st.lists(st.none() | st.integers()).map(tuple), max_size=3),
        parent=parents,
        notes=st.lists(TEXT, max_size=3),
    )


ORDERS = orders(st.none() | orders(st.none()))
SERIALIZER = EventSerializer()


@given(fields=st.dictionaries(TEXT, JSON), name=TEXT.filter(bool))
def test_dicts_come_back_as_they_were_in_a_body_that_sqs_takes(fields: dict[str, Any], name: str) -> None:
    event = {**fields, "event_type_name": name}

    _, body = SERIALIZER.encode(event)
    message = Message("id", body, event_type_name=None)

    check_message(message, max_bytes=2**30, is_fifo=False)
    assert SERIALIZER.read(message) == (name, event)
    assert SERIALIZER.encode(SERIALIZER.read(message)[1]) == (name, body)


@given(event=ORDERS)
def test_typed_events_come_back_as_they_were(event: Ordered) -> None:
    name, body = SERIALIZER.encode(event)
    _, data = SERIALIZER.read(Message("id", body, name))

    loaded = SERIALIZER.load(name, data, Ordered)

    assert loaded == event
    assert isinstance(loaded, Ordered)
    assert loaded.occurred_on == event.occurred_on
    assert SERIALIZER.encode(loaded) == (name, body)


@given(fields=st.dictionaries(st.text(st.characters()) | st.integers(), ANYTHING), name=st.none() | st.text())
def test_any_dict_is_written_faithfully_or_refused(fields: dict[Any, Any], name: str | None) -> None:
    try:
        written_name, body = SERIALIZER.encode(fields, name)
    except EncodeError:
        return

    assert json.loads(body) == json.loads(json.dumps({**fields, "event_type_name": written_name}))
    assert all(isinstance(key, str) for key in fields)


@given(body=st.text(st.characters()) | JSON.map(json.dumps) | ANYTHING.map(repr), name=st.none() | TEXT)
@example(body="[" * 5_000, name="A")
@example(body='{"a":' * 5_000, name="A")
@example(body='{"a": 1e400}', name="A")
@example(body='{"a": "\\ud800"}', name="A")
@example(body="\ufeff{}", name="A")
def test_any_body_is_read_as_something_that_can_be_written_or_refused(body: str, name: str | None) -> None:
    try:
        read_name, data = SERIALIZER.read(Message("id", body, name))
    except DecodeError:
        return

    assert SERIALIZER.encode(data, read_name)[0] == read_name


@st.composite
def spoilt_orders(draw: st.DrawFn) -> dict[str, Any]:
    """Return the data of an order in which some values were replaced by other JSON."""
    data = json.loads(SERIALIZER.encode(draw(ORDERS))[1])
    for key in draw(st.sets(st.sampled_from(sorted(data)), min_size=1)):
        data[key] = draw(JSON)
    return data


@given(data=spoilt_orders() | st.dictionaries(TEXT, JSON))
def test_any_object_is_loaded_or_refused(data: dict[str, Any]) -> None:
    try:
        loaded = SERIALIZER.load("Ordered", data, Ordered)
    except DecodeError:
        return

    assert isinstance(loaded, Ordered)
    assert SERIALIZER.encode(loaded)[0] == "Ordered"


# The whole table of annotations


@given(data=st.data(), annotation=ANNOTATIONS)
def test_a_value_of_any_annotation_comes_back_as_it_was(data: st.DataObject, annotation: Annotated) -> None:
    event_class = event_of(annotation[0])
    event = event_class(data.draw(annotation[1]))  # type: ignore[call-arg]

    name, body = SERIALIZER.encode(event)
    loaded = SERIALIZER.load(name, SERIALIZER.read(Message("id", body))[1], event_class)

    assert loaded == event
    assert SERIALIZER.encode(loaded) == (name, body)


@given(data=st.data(), annotation=ANNOTATIONS)
def test_what_is_read_for_any_annotation_can_be_written_and_read_again(
    data: st.DataObject, annotation: Annotated
) -> None:
    event_class = event_of(annotation[0])
    try:
        loaded = SERIALIZER.load("Event", {"value": data.draw(JSON)}, event_class)
    except DecodeError:
        return

    name, body = SERIALIZER.encode(loaded)

    assert SERIALIZER.load(name, SERIALIZER.read(Message("id", body))[1], event_class) == loaded
