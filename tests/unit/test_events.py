"""Typed events: what their base gives them, whatever kind of class inherits from it."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from marshmallow import INCLUDE, RAISE, Schema, ValidationError, fields

from melange.errors import ConfigurationError
from melange.events import EventMessage
from melange.serialization.schema import EventSchema


@dataclass
class Plain(EventMessage):
    name: str


@dataclass(frozen=True)
class Frozen(EventMessage):
    name: str


@dataclass(slots=True)
class Slotted(EventMessage):
    name: str


@dataclass(frozen=True, slots=True)
class FrozenSlotted(EventMessage):
    name: str


class Handwritten(EventMessage):
    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(frozen=True, slots=True)
class WithItsOwnTime(EventMessage):
    occurred_on: datetime


EVERY_KIND = [Plain, Frozen, Slotted, FrozenSlotted, Handwritten]


@pytest.mark.parametrize("event_class", EVERY_KIND)
def test_occurred_on_is_the_time_of_creation_in_utc(event_class: Any) -> None:
    before = datetime.now(UTC)

    event = event_class(name="x")

    assert before <= event.occurred_on <= datetime.now(UTC)
    assert event.occurred_on.tzinfo is UTC


def test_two_events_have_times_of_their_own() -> None:
    first = Frozen("x")
    while datetime.now(UTC) == first.occurred_on:
        pass

    second = Frozen("x")

    assert first.occurred_on < second.occurred_on
    assert first == second


@pytest.mark.parametrize("event_class", EVERY_KIND)
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda event: pickle.loads(pickle.dumps(event))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_keep_occurred_on(event_class: Any, duplicate: Any) -> None:
    event = event_class(name="x")
    object.__setattr__(event, "occurred_on", datetime(2020, 1, 1, tzinfo=UTC))

    copied = duplicate(event)

    assert copied is not event
    assert copied.name == "x"
    assert copied.occurred_on == datetime(2020, 1, 1, tzinfo=UTC)


def test_an_event_that_is_copied_by_name_stays_itself() -> None:
    class Started(EventMessage):
        def __reduce__(self) -> str:
            return "STARTED"

    event = Started()

    assert copy.copy(event) is event


@pytest.mark.parametrize("event_class", [Frozen, FrozenSlotted])
def test_frozen_events_stay_frozen(event_class: Any) -> None:
    event = event_class("x")

    with pytest.raises(dataclasses.FrozenInstanceError):
        event.name = "y"


def test_a_subclass_may_declare_its_own_occurred_on() -> None:
    moment = datetime(1999, 12, 31, tzinfo=UTC)

    event = WithItsOwnTime(moment)

    assert event.occurred_on == moment
    assert copy.copy(event).occurred_on == moment
    with pytest.raises(TypeError, match="occurred_on"):
        WithItsOwnTime()  # type: ignore[call-arg]


def test_replace_makes_a_new_event_with_a_new_time() -> None:
    event = Frozen("x")
    object.__setattr__(event, "occurred_on", datetime.now(UTC) - timedelta(days=1))

    replaced = dataclasses.replace(event, name="y")

    assert replaced.occurred_on > event.occurred_on


@pytest.mark.parametrize("event_class", EVERY_KIND)
def test_event_type_name_is_the_name_of_the_class(event_class: Any) -> None:
    assert event_class.event_type_name == event_class.__name__


def test_event_type_name_can_be_chosen_and_is_not_inherited() -> None:
    @dataclass(slots=True)
    class ProductAdded(EventMessage):
        event_type_name = "product-added"

    class ProductAddedTwice(ProductAdded):
        pass

    assert ProductAdded.event_type_name == "product-added"
    assert ProductAdded().event_type_name == "product-added"
    assert ProductAddedTwice.event_type_name == "ProductAddedTwice"


@pytest.mark.parametrize("name", ["", 5, None, field(default="x")])
def test_event_type_name_must_be_text(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"text and not empty.*without an annotation"):
        type("ProductAdded", (EventMessage,), {"event_type_name": name})


def test_a_property_in_place_of_the_time_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"ProductAdded\.occurred_on is a property"):
        type("ProductAdded", (EventMessage,), {"occurred_on": property(lambda event: None)})


def test_two_classes_of_one_name_can_be_defined() -> None:
    first = type("ProductAdded", (EventMessage,), {})
    second = type("ProductAdded", (EventMessage,), {})

    assert first.event_type_name == second.event_type_name


class PlainPart(Schema):
    size = fields.Integer()


class PlainPartWithParts(Schema):
    parts = fields.List(fields.Nested(PlainPart))


class TolerantPart(EventSchema):
    parts = fields.List(fields.Nested(PlainPart))


class StrictPart(Schema):
    size = fields.Integer()

    class Meta:
        unknown = RAISE


class Tree(Schema):
    size = fields.Integer()
    children = fields.List(fields.Nested(lambda: Tree(many=False)))


def test_schemas_ignore_unknown_fields() -> None:
    class BoxSchema(EventSchema):
        size = fields.Integer()

    assert BoxSchema().load({"size": 1, "colour": "red"}) == {"size": 1}


def test_schemas_with_a_meta_of_their_own_ignore_unknown_fields() -> None:
    class BoxSchema(EventSchema):
        size = fields.Integer()

        class Meta:
            dateformat = "iso"

    assert BoxSchema().load({"size": 1, "colour": "red"}) == {"size": 1}


@pytest.mark.parametrize(
    ("field", "wrap"),
    [
        (fields.Nested(PlainPart), lambda part: part),
        (fields.Nested("PlainPart"), lambda part: part),
        (fields.Nested(PlainPart()), lambda part: part),
        (fields.Nested(lambda: PlainPart(many=False)), lambda part: part),
        (fields.Nested(lambda: PlainPart), lambda part: part),
        (fields.Nested({"size": fields.Integer()}), lambda part: part),
        (fields.Nested(PlainPart, many=True), lambda part: [part]),
        (fields.List(fields.Nested(PlainPart)), lambda part: [part]),
        (fields.Tuple((fields.Nested(PlainPart),)), lambda part: (part,)),
        (fields.Dict(fields.String(), fields.Nested(PlainPart)), lambda part: {"a": part}),
        (fields.Nested(PlainPartWithParts), lambda part: {"parts": [part]}),
        (fields.Nested(PlainPartWithParts()), lambda part: {"parts": [part]}),
        (fields.Nested(TolerantPart), lambda part: {"parts": [part]}),
    ],
    ids=[
        "class",
        "name",
        "instance",
        "callable",
        "callable class",
        "dict",
        "many",
        "list",
        "tuple",
        "dict values",
        "nested twice",
        "nested twice by instance",
        "nested in an EventSchema",
    ],
)
def test_nested_schemas_that_say_nothing_ignore_unknown_fields(field: Any, wrap: Any) -> None:
    schema = type("BoxSchema", (EventSchema,), {"part": field})()

    loaded = schema.load({"part": wrap({"size": 1, "colour": "red"})})

    assert loaded == {"part": wrap({"size": 1})}


def test_nested_schemas_that_contain_themselves_ignore_unknown_fields() -> None:
    class BoxSchema(EventSchema):
        tree = fields.Nested(Tree)

    loaded = BoxSchema().load({"tree": {"size": 1, "children": [{"size": 2, "age": 3, "children": []}]}})

    assert loaded == {"tree": {"size": 1, "children": [{"size": 2, "children": []}]}}


def test_a_schema_that_asks_for_unknown_fields_to_be_refused_refuses_them() -> None:
    class BoxSchema(EventSchema):
        class Meta:
            unknown = RAISE

    class ShelfSchema(EventSchema):
        part = fields.Nested(StrictPart)

    with pytest.raises(ValidationError, match="Unknown field"):
        BoxSchema().load({"colour": "red"})
    with pytest.raises(ValidationError, match="Unknown field"):
        ShelfSchema().load({"part": {"colour": "red"}})


def test_a_nested_field_that_asks_for_unknown_fields_gets_them() -> None:
    class BoxSchema(EventSchema):
        part = fields.Nested(PlainPart, unknown=INCLUDE)

    assert BoxSchema().load({"part": {"colour": "red"}}) == {"part": {"colour": "red"}}


def test_nesting_leaves_the_nested_schema_itself_as_it_is() -> None:
    part = PlainPartWithParts()
    schema = type("BoxSchema", (EventSchema,), {"part": fields.Nested(part)})()
    schema.load({"part": {"parts": [{"size": 1, "colour": "red"}]}})

    with pytest.raises(ValidationError, match="Unknown field"):
        part.load({"parts": [{"colour": "red"}]})
