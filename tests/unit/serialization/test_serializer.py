"""The serializer: what may travel, what is refused with which words, and which classes come back."""

from __future__ import annotations

import inspect
import json
import math
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import pytest
from marshmallow import RAISE, ValidationError, fields, post_load, pre_dump, validates_schema

from melange.errors import ConfigurationError, DecodeError, DuplicateHandlerError, EncodeError
from melange.events import EventMessage
from melange.messages import Message
from melange.serialization.schema import EventSchema
from melange.serialization.serializer import EventSerializer

SECRET = "4111-1111"


@dataclass(frozen=True)
class Money:
    amount: Decimal


@dataclass(frozen=True)
class ProductAdded(EventMessage):
    product_id: int
    name: str
    price: Money | None = None
    data: Any = None


@dataclass(frozen=True)
class Priced(EventMessage):
    price: int

    def __post_init__(self) -> None:
        if self.price < 0:
            raise ValueError(f"{self.price} is negative")


@dataclass(frozen=True)
class Scheduled(EventMessage):
    occurred_on: datetime


class Handwritten(EventMessage):
    def __init__(self, number: int) -> None:
        self.number = number


class HandwrittenSchema(EventSchema):
    event_class = Handwritten
    number = fields.Integer(required=True)


@pytest.fixture
def serializer() -> EventSerializer:
    return EventSerializer()


def message(body: str, event_type_name: str | None = None, **options: Any) -> Message:
    return Message("id", body, event_type_name, **options)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def loaded(serializer: EventSerializer, body: str, *event_classes: type[EventMessage]) -> Any:
    name, data = serializer.read(message(body))
    return serializer.load(
        name, data, next((cls for cls in event_classes if cls.event_type_name == name), None)
    )


# Writing


def test_a_dict_is_written_as_it_is(serializer: EventSerializer) -> None:
    event = {"event_type_name": "ProductAdded", "name": "Kühler 😀", "sizes": [1, 2.5, None, True]}

    name, body = serializer.encode(event)

    assert name == "ProductAdded"
    assert body == '{"event_type_name":"ProductAdded","name":"Kühler 😀","sizes":[1,2.5,null,true]}'


def test_the_type_may_be_an_argument_and_then_is_in_the_body_too(serializer: EventSerializer) -> None:
    event = {"product_id": 1}

    name, body = serializer.encode(event, "ProductAdded")

    assert name == "ProductAdded"
    assert json.loads(body) == {"product_id": 1, "event_type_name": "ProductAdded"}
    assert event == {"product_id": 1}


def test_the_same_type_inside_and_as_an_argument_is_fine(serializer: EventSerializer) -> None:
    assert serializer.encode({"event_type_name": "A"}, "A") == ("A", '{"event_type_name":"A"}')


@pytest.mark.parametrize("event", [{"event_type_name": "A"}, ProductAdded(1, "x")])
def test_two_different_types_are_refused(serializer: EventSerializer, event: Any) -> None:
    with pytest.raises(EncodeError, match=r"of type '(A|ProductAdded)', the call says 'B'"):
        serializer.encode(event, "B")


@pytest.mark.parametrize(
    "event", [{}, {"event_type_name": ""}, {"event_type_name": 5}, {"event_type_name": None}]
)
def test_a_dict_without_a_type_is_refused(serializer: EventSerializer, event: Any) -> None:
    with pytest.raises(EncodeError, match="event_type_name must be text"):
        serializer.encode(event)


@pytest.mark.parametrize(
    "event", [OrderedDict(event_type_name="A"), MappingProxyType({"event_type_name": "A"})]
)
def test_other_mappings_are_events_too(serializer: EventSerializer, event: Any) -> None:
    assert serializer.encode(event) == ("A", '{"event_type_name":"A"}')


@pytest.mark.parametrize("event", [Money(Decimal(1)), "text", None, [("event_type_name", "A")]])
def test_other_objects_are_no_events(serializer: EventSerializer, event: Any) -> None:
    with pytest.raises(EncodeError, match=r"inherits from EventMessage, not.*publish a dict"):
        serializer.encode(event)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([0, {"price": Decimal(SECRET.replace("-", ""))}], r"items\[1\]\.price is a Decimal"),
        ({"a b": datetime.now(UTC)}, r"items\['a b'\] is a datetime"),
        ({SECRET}, "items is a set"),
        (b"4111-1111", "items is a bytes"),
        (math.nan, "items is not a finite number"),
        ([-math.inf], r"items\[0\] is not a finite number"),
        ({1: SECRET}, "a key of items is a int"),
        ([{True: SECRET}], r"a key of items\[0\] is a bool"),
        ([{False: SECRET}], r"a key of items\[0\] is a bool"),
        (({None: SECRET},), r"a key of items\[0\] is a NoneType"),
        ({1.5: SECRET}, "a key of items is a float"),
        ({(1, 2): SECRET}, "a key of items is a tuple"),
        ([f"{SECRET}\ud800"], r"items\[0\] contains half of a surrogate pair"),
        ({"\udfff": SECRET}, "a key of items contains half of a surrogate pair"),
        pytest.param(10**100_000, "items has too many digits", id="many digits"),
        pytest.param(nested(100_000), "nested too deeply", id="deep"),
    ],
)
def test_what_json_cannot_carry_is_refused_and_located(
    serializer: EventSerializer, value: Any, problem: str
) -> None:
    with pytest.raises(EncodeError, match=problem) as refused:
        serializer.encode({"event_type_name": "A", "items": value})

    assert "4111" not in str(refused.value)


def test_an_event_that_contains_itself_is_refused(serializer: EventSerializer) -> None:
    event: dict[str, Any] = {"event_type_name": "A", "parts": [1]}
    event["parts"].append(event)

    with pytest.raises(EncodeError, match=r"parts\[1\] contains itself"):
        serializer.encode(event)


def test_text_keys_that_look_like_numbers_are_text(serializer: EventSerializer) -> None:
    event = {"event_type_name": "A", "1": {"true": 1, "null": [{"2.5": 1}], "false": '"1":'}}

    _, body = serializer.encode(event)

    assert json.loads(body) == event


def test_keys_of_a_text_enum_are_text(serializer: EventSerializer) -> None:
    size = StrEnum("size", ["A1"])

    _, body = serializer.encode({"event_type_name": "A", size.A1: size.A1})

    assert json.loads(body) == {"event_type_name": "A", "a1": "a1"}


@pytest.mark.parametrize("character", ["\x00", "\x1f", "\ufffe", "\uffff"])
def test_characters_that_sqs_refuses_travel_escaped(serializer: EventSerializer, character: str) -> None:
    event = {"event_type_name": "A", f"key{character}": f"ü{character}x"}

    _, body = serializer.encode(event)

    assert character not in body
    assert serializer.read(message(body)) == ("A", event)


def test_a_typed_event_says_its_type_and_time(serializer: EventSerializer) -> None:
    event = ProductAdded(1, "Coolers", Money(Decimal("12.50")))

    name, body = serializer.encode(event)

    assert name == "ProductAdded"
    assert json.loads(body) == {
        "event_type_name": "ProductAdded",
        "occurred_on": event.occurred_on.isoformat(),
        "product_id": 1,
        "name": "Coolers",
        "price": {"amount": "12.50"},
        "data": None,
    }


def test_the_time_is_written_in_utc(serializer: EventSerializer) -> None:
    event = ProductAdded(1, "x")
    object.__setattr__(event, "occurred_on", datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))

    _, body = serializer.encode(event)

    assert json.loads(body)["occurred_on"] == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize("moment", [datetime(2026, 1, 1), "2026-01-01", None])  # noqa: DTZ001
def test_a_time_that_was_spoilt_is_refused(serializer: EventSerializer, moment: Any) -> None:
    event = ProductAdded(1, "x")
    object.__setattr__(event, "occurred_on", moment)

    with pytest.raises(EncodeError, match="occurred_on: Must be an aware datetime"):
        serializer.encode(event)


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (ProductAdded(SECRET, "x"), "'ProductAdded' cannot be written: product_id: Must be an integer"),
        (ProductAdded(1, "x", Money(SECRET)), r"price\.amount: Must be a decimal number"),
        (ProductAdded(1, "x", data=[{SECRET}]), r"data\[0\] is a set"),
    ],
)
def test_a_typed_event_with_a_wrong_value_is_refused(
    serializer: EventSerializer, event: EventMessage, problem: str
) -> None:
    with pytest.raises(EncodeError, match=problem) as refused:
        serializer.encode(event)

    assert SECRET not in str(refused.value)


def test_a_typed_event_that_contains_itself_is_refused(serializer: EventSerializer) -> None:
    @dataclass
    class Node(EventMessage):
        next_node: Node | None = None

    node = Node()
    node.next_node = node

    with pytest.raises(EncodeError, match="contains itself"):
        serializer.encode(node)


def test_an_event_class_without_a_schema_is_a_configuration_error(serializer: EventSerializer) -> None:
    with pytest.raises(ConfigurationError, match=r"Handwritten is not a dataclass.*EventSchema"):
        serializer.encode(Handwritten(1))
    with pytest.raises(ConfigurationError, match=r"Handwritten is not a dataclass"):
        serializer.check_event_class(Handwritten)


# Reading


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("", "not JSON: Expecting value at character 0"),
        (SECRET, "not JSON"),
        ('{"a": "4111-1111', "not JSON"),
        ("5", "the body is a number, an event is an object"),
        ("null", "the body is null"),
        ('["4111-1111"]', "the body is a list"),
        ('"4111-1111"', "the body is text"),
        ("1.5", "the body is a number"),
        ("true", "the body is true or false"),
        ('{"a": NaN}', "not JSON: it contains NaN"),
        ('{"a": -Infinity}', "not JSON: it contains -Infinity"),
        ('{"a": 1e400}', "not JSON: a number is too large"),
        ('{"a": -1e400}', "not JSON: a number is too large"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 4301 + "}", "an integer with too many digits"),
        ('{"a": "4111-1111\\ud800"}', "half of a surrogate pair"),
        ('{"a": "4111-1111\\uDFFF"}', "half of a surrogate pair"),
        ('{"\\udead": "4111-1111"}', "half of a surrogate pair"),
        ('{"a": "4111-1111\ud800"}', "half of a surrogate pair"),
        ('{"a": "4111-1111"}', "neither the headers nor the body say of what type"),
        ('{"event_type_name": 5}', "in the body is a number, it must be text"),
        ('{"event_type_name": null}', "in the body is null, it must be text"),
        ('{"event_type_name": ""}', "in the body is text, it must be text and not empty"),
        ('{"event_type_name": {"a": "4111-1111"}}', "in the body is an object"),
    ],
)
def test_what_is_no_event_is_refused_with_the_reason(
    serializer: EventSerializer, body: str, problem: str
) -> None:
    with pytest.raises(DecodeError, match=problem) as refused:
        serializer.read(message(body))

    assert SECRET not in str(refused.value)


def test_the_type_is_read_from_the_body_or_the_headers(serializer: EventSerializer) -> None:
    assert serializer.read(message('{"event_type_name":"A"}')) == ("A", {"event_type_name": "A"})
    assert serializer.read(message("{}", "A")) == ("A", {})
    assert serializer.read(message('{"event_type_name":"A"}', "A")) == ("A", {"event_type_name": "A"})


def test_headers_and_body_that_name_different_types_are_refused(serializer: EventSerializer) -> None:
    with pytest.raises(DecodeError, match=r"headers say .* 'A', its body says 'B'"):
        serializer.read(message('{"event_type_name":"B"}', "A"))


def test_long_type_names_are_not_quoted_in_full(serializer: EventSerializer) -> None:
    with pytest.raises(DecodeError) as refused:
        serializer.read(message(json.dumps({"event_type_name": "B" * 100_000}), "A"))

    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/cloudevents+json"]
)
def test_every_form_of_json_content_type_is_read(serializer: EventSerializer, content_type: str) -> None:
    assert serializer.read(message("{}", "A", content_type=content_type)) == ("A", {})


@pytest.mark.parametrize("content_type", ["application/x-python-pickle", "text/plain", ""])
def test_other_content_types_are_refused(serializer: EventSerializer, content_type: str) -> None:
    with pytest.raises(DecodeError, match="the content type is"):
        serializer.read(message("{}", "A", content_type=content_type))


def test_escaped_surrogate_pairs_and_large_numbers_are_read(serializer: EventSerializer) -> None:
    _, data = serializer.read(message(r'{"a": "\ud83d\ude00", "b": 1e308, "c": "\\ud800"}', "A"))

    assert data == {"a": "😀", "b": 1e308, "c": "\\ud800"}


def test_nesting_close_to_the_limit_is_read_or_refused(serializer: EventSerializer) -> None:
    problems = set()

    for levels in range(800, 1_100):
        try:
            serializer.read(message('{"a":' + "[" * levels + r'"\ud83d\ude00"' + "]" * levels + "}", "A"))
        except DecodeError as error:
            problems.add(str(error))

    # Which levels are refused depends on Python's version; that nothing but this ever comes out does not.
    assert problems <= {"the body is nested too deeply"}


# Loading


def test_types_of_unknown_classes_stay_dicts(serializer: EventSerializer) -> None:
    data = {"event_type_name": "ProductAdded", "product_id": 1}

    assert serializer.load("ProductAdded", data) is data


def test_types_whose_class_the_caller_names_become_objects(serializer: EventSerializer) -> None:
    event = ProductAdded(1, "Coolers", Money(Decimal(1)), data={"a": [1]})
    object.__setattr__(event, "occurred_on", datetime(2020, 1, 1, tzinfo=UTC))
    _, body = serializer.encode(event)

    read = loaded(serializer, body, ProductAdded)

    assert read == event
    assert type(read) is ProductAdded
    assert read.occurred_on == event.occurred_on


def test_types_whose_class_is_registered_become_objects(serializer: EventSerializer) -> None:
    event = ProductAdded(1, "Coolers")
    _, body = serializer.encode(event)

    serializer.register(ProductAdded)

    assert loaded(serializer, body) == event


def test_the_classes_of_the_caller_go_before_the_registered_ones(serializer: EventSerializer) -> None:
    @dataclass
    class Narrow(EventMessage):
        event_type_name = "ProductAdded"
        product_id: int

    serializer.register(ProductAdded)

    read = loaded(serializer, '{"event_type_name":"ProductAdded","product_id":1,"name":"x"}', Narrow)

    assert read == Narrow(1)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2020-01-01T02:00:00+02:00", datetime(2020, 1, 1, tzinfo=UTC)),
        ("2020-01-01T00:00:00Z", datetime(2020, 1, 1, tzinfo=UTC)),
        ("2020-01-01T00:00:00", datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_times_of_others_are_read_as_utc(
    serializer: EventSerializer, written: str, expected: datetime
) -> None:
    read = loaded(
        serializer, json.dumps({"event_type_name": "Priced", "price": 1, "occurred_on": written}), Priced
    )

    assert read.occurred_on == expected
    assert read.occurred_on.tzinfo is UTC


@pytest.mark.parametrize(
    "written", ["yesterday", 5, [], "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"]
)
def test_times_that_are_none_are_refused(serializer: EventSerializer, written: Any) -> None:
    body = json.dumps({"event_type_name": "Priced", "price": 1, "occurred_on": written})

    with pytest.raises(DecodeError, match="occurred_on: Must be a datetime"):
        loaded(serializer, body, Priced)


def test_events_of_others_without_a_time_are_read(serializer: EventSerializer) -> None:
    read = loaded(serializer, '{"event_type_name":"Priced","price":1}', Priced)

    assert datetime.now(UTC) - read.occurred_on < timedelta(minutes=5)


def test_an_occurred_on_of_the_class_itself_travels_as_its_field(serializer: EventSerializer) -> None:
    event = Scheduled(datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    _, body = serializer.encode(event)

    read = loaded(serializer, body, Scheduled)

    assert json.loads(body)["occurred_on"] == "2026-01-01T02:00:00+02:00"
    assert read == event
    assert read.occurred_on.utcoffset() == timedelta(hours=2)


@pytest.mark.parametrize(
    ("fields_read", "problem"),
    [
        ({"name": "x"}, "product_id: Missing data for required field"),
        ({"product_id": SECRET, "name": "x"}, "product_id: Must be an integer"),
        (
            {"product_id": 1, "name": "x", "price": {"amount": SECRET}},
            r"price\.amount: Must be a decimal number",
        ),
    ],
)
def test_data_that_the_class_cannot_take_names_the_field(
    serializer: EventSerializer, fields_read: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DecodeError, match=f"'ProductAdded' is refused: {problem}") as refused:
        serializer.load("ProductAdded", fields_read, ProductAdded)

    assert SECRET not in str(refused.value)


def test_an_event_that_its_own_class_refuses_names_only_the_exception(serializer: EventSerializer) -> None:
    with pytest.raises(DecodeError, match=r"'Priced' is refused.*fails with ValueError") as refused:
        serializer.load("Priced", {"price": -41111111}, Priced)

    assert "41111111" not in str(refused.value)
    assert isinstance(refused.value.__cause__, ValueError)


def test_objects_nested_too_deeply_are_refused(serializer: EventSerializer) -> None:
    @dataclass
    class Node(EventMessage):
        next_node: Node | None = None

    data: dict[str, Any] = {}
    for _ in range(900):
        data = {"next_node": data}

    with pytest.raises(DecodeError, match="nested too deeply"):
        serializer.load("Node", data, Node)


@dataclass
class Chain(EventMessage):
    next_link: Chain | None = None


@dataclass
class Tree(EventMessage):
    children: dict[str, list[Tree | None] | None] | None = None


def dicts(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 2):
        value = {"a": value}
    return {"event_type_name": "A", "value": value}


def chain(levels: int) -> Chain:
    event = Chain()
    for _ in range(levels - 1):
        event = Chain(event)
    return event


def tree(levels: int) -> Tree:
    event = Tree()
    for _ in range(levels // 3):
        event = Tree({"a": [event]})
    return event


def from_stack_depth(frames: int, function: Callable[[], Any]) -> Any:
    return function() if frames == 0 else from_stack_depth(frames - 1, function)


def free_frames() -> int:
    return sys.getrecursionlimit() - len(inspect.stack(0))


@pytest.mark.parametrize("make", [dicts, chain, tree])
@pytest.mark.parametrize("levels", [3, 120, 141, 198, 199, 200])
def test_what_is_written_can_be_read_however_deep_the_stack_is(
    serializer: EventSerializer, make: Callable[[int], Any], levels: int
) -> None:
    event = make(levels)
    event_class = None if make is dicts else type(event)
    name, body = serializer.encode(event)

    def read() -> Any:
        return serializer.load(*serializer.read(message(body, name)), event_class)

    for frames in (0, free_frames() // 2, free_frames() - 60):
        assert serializer.encode(from_stack_depth(frames, read)) == (name, body)


@pytest.mark.parametrize("make", [dicts, chain, tree])
@pytest.mark.parametrize("levels", [203, 300, 499, 985, 990, 991, 995, 2_000])
def test_what_not_every_consumer_could_read_is_not_written(
    serializer: EventSerializer, make: Callable[[int], Any], levels: int
) -> None:
    event = make(levels)

    with pytest.raises(EncodeError, match="nested too deeply"):
        serializer.encode(event)


def test_flat_events_can_be_large(serializer: EventSerializer) -> None:
    items = [{"text": text, "n": [n]} for n, text in enumerate(['"', "\\", "[[", "]}", '\\"['] * 200)]

    for event in ({"event_type_name": "A", "items": items}, {"event_type_name": "A", "items": items[::5]}):
        name, body = serializer.encode(event)
        assert serializer.read(message(body)) == (name, event)


def test_brackets_in_text_hide_no_levels(serializer: EventSerializer) -> None:
    value: Any = "]"
    for _ in range(300):
        value = ["]", value, "}", '"]']

    with pytest.raises(EncodeError, match="nested too deeply"):
        serializer.encode({"event_type_name": "A", "value": value})


def test_a_shallow_event_is_written_and_read_from_a_deep_stack(serializer: EventSerializer) -> None:
    event = ProductAdded(1, "x", Money(Decimal(1)))

    def there_and_back() -> Any:
        return loaded(serializer, serializer.encode(event)[1], ProductAdded)

    for spare in range(40, 80, 3):
        assert from_stack_depth(free_frames() - spare, there_and_back) == event


def test_hostile_data_makes_short_errors(serializer: EventSerializer) -> None:
    @dataclass
    class Counted(EventMessage):
        counts: dict[str, list[int]]

    data = {"counts": {SECRET: [SECRET] * 10_000}}

    with pytest.raises(DecodeError, match=r"counts\.\*\[0\]: Must be an integer") as refused:
        serializer.load("Counted", data, Counted)

    assert len(str(refused.value)) < 500
    assert SECRET not in str(refused.value)


# Registered schemas


def test_a_schema_makes_objects_of_its_class_everywhere(serializer: EventSerializer) -> None:
    serializer.register(HandwrittenSchema)
    event = Handwritten(5)

    name, body = serializer.encode(event)
    read = loaded(serializer, body)

    assert name == "Handwritten"
    assert type(read) is Handwritten
    assert read.number == 5
    assert read.occurred_on == event.occurred_on


def test_a_schema_named_after_an_event_overrides_the_derived_one(serializer: EventSerializer) -> None:
    class ProductAddedSchema(EventSchema):
        product_id = fields.Integer(data_key="id")
        name = fields.String()

    serializer.register(ProductAddedSchema)

    _, body = serializer.encode(ProductAdded(1, "x"))

    assert json.loads(body).keys() == {"id", "name", "event_type_name", "occurred_on"}
    assert loaded(serializer, body, ProductAdded) == ProductAdded(1, "x")


def test_a_schema_without_a_class_loads_dicts(serializer: EventSerializer) -> None:
    class ProductAddedSchema(EventSchema):
        price = fields.Decimal()

    serializer.register(ProductAddedSchema)

    read = loaded(serializer, '{"event_type_name":"ProductAdded","price":"1.5","new":1}')

    assert read == {"event_type_name": "ProductAdded", "price": Decimal("1.5")}


def test_a_schema_is_not_used_for_another_class_of_the_same_type(serializer: EventSerializer) -> None:
    @dataclass
    class Numbered(EventMessage):
        event_type_name = "Handwritten"
        number: int

    serializer.register(HandwrittenSchema)

    with pytest.raises(DecodeError, match="Must be an integer"):
        serializer.load("Handwritten", {"number": "5"}, Numbered)


def test_a_schema_may_make_the_object_itself_and_declare_what_is_carried(serializer: EventSerializer) -> None:
    class MadeSchema(EventSchema):
        event_class = Handwritten
        number = fields.Integer()
        occurred_on = fields.AwareDateTime()
        event_type_name = fields.String()

        @post_load
        def make(self, values: dict[str, Any], **_: Any) -> Handwritten:
            return Handwritten(values["number"] + 1)

    class DeclaringSchema(EventSchema):
        number = fields.Integer()
        occurred_on = fields.AwareDateTime()
        event_type_name = fields.String()

    event = Handwritten(5)
    serializer.register(MadeSchema)
    declaring = EventSerializer()
    declaring.register(type("HandwrittenSchema", (DeclaringSchema,), {}))

    made = loaded(serializer, serializer.encode(event)[1])
    declared = loaded(declaring, declaring.encode(event)[1], Handwritten)

    assert (made.number, made.occurred_on) == (6, event.occurred_on)
    assert (declared.number, declared.occurred_on) == (5, event.occurred_on)


def test_a_failing_schema_is_an_error_of_ours(serializer: EventSerializer) -> None:
    class FailingSchema(EventSchema):
        event_class = Handwritten

        @pre_dump
        def fail(self, event: Any, **_: Any) -> Any:
            raise KeyError(SECRET)

        @post_load
        def fail_too(self, values: Any, **_: Any) -> Any:
            return 5

    serializer.register(FailingSchema)

    with pytest.raises(EncodeError, match="fails with KeyError") as not_written:
        serializer.encode(Handwritten(1))
    with pytest.raises(DecodeError, match="fails with TypeError"):
        serializer.load("Handwritten", {})
    assert SECRET not in str(not_written.value)


def test_keys_of_the_payload_are_not_shown(serializer: EventSerializer) -> None:
    class CountedSchema(EventSchema):
        counts = fields.Dict(fields.String(), fields.Integer())
        name = fields.String(required=True)

        class Meta:
            unknown = RAISE

    serializer.register(CountedSchema)

    with pytest.raises(DecodeError, match=r"counts\.\*\.\*: Not a valid integer") as refused:
        serializer.load("Counted", {"counts": {SECRET: "x"}, SECRET: 1})

    assert SECRET not in str(refused.value)
    assert "name: Missing data" in str(refused.value)


def test_talkative_validators_make_short_errors(serializer: EventSerializer) -> None:
    def refuse(value: str) -> None:
        raise ValidationError("no " * 1_000)

    class NamedSchema(EventSchema):
        names = fields.List(fields.String(validate=refuse))

    serializer.register(NamedSchema)

    with pytest.raises(DecodeError, match=r"names\[0\]: no no .*; and more$") as refused:
        serializer.load("Named", {"names": ["x"] * 100})

    assert len(str(refused.value)) < 1_500


def test_problems_of_a_whole_event_are_told(serializer: EventSerializer) -> None:
    class RangeSchema(EventSchema):
        low = fields.Integer()
        high = fields.Integer()

        @validates_schema
        def check(self, values: dict[str, int], **_: Any) -> None:
            if values["low"] > values["high"]:
                raise ValidationError("low is above high")

    serializer.register(RangeSchema)

    with pytest.raises(DecodeError, match=r"'Range' is refused: low is above high$"):
        serializer.load("Range", {"low": 2, "high": 1})


def test_registering_the_same_again_changes_nothing(serializer: EventSerializer) -> None:
    for _ in range(2):
        serializer.register(HandwrittenSchema)
        serializer.register(Handwritten)
        serializer.register(ProductAdded)

    assert type(loaded(serializer, '{"event_type_name":"Handwritten","number":1}')) is Handwritten


def test_a_second_class_for_a_type_is_refused(serializer: EventSerializer) -> None:
    serializer.register(ProductAdded)
    other = dataclass(type("ProductAdded", (EventMessage,), {"__module__": "elsewhere"}))

    with pytest.raises(
        DuplicateHandlerError, match=rf"{__name__}\.ProductAdded already.* elsewhere\.ProductAdded"
    ):
        serializer.register(other)


def test_a_second_schema_for_a_type_is_refused(serializer: EventSerializer) -> None:
    serializer.register(HandwrittenSchema)
    other = type("HandwrittenSchema", (EventSchema,), {"__module__": "elsewhere"})

    with pytest.raises(DuplicateHandlerError, match=r"schema .*HandwrittenSchema already.* elsewhere"):
        serializer.register(other)


def test_a_schema_whose_class_is_refused_is_not_registered(serializer: EventSerializer) -> None:
    @dataclass
    class Other(EventMessage):
        event_type_name = "Handwritten"
        number: int

    serializer.register(Other)

    with pytest.raises(DuplicateHandlerError, match="has the class"):
        serializer.register(HandwrittenSchema)

    assert loaded(serializer, '{"event_type_name":"Handwritten","number":1}') == Other(1)


@pytest.mark.parametrize(
    "wrong", [5, "ProductAdded", Money, ProductAdded(1, "x"), HandwrittenSchema(), ValidationError]
)
def test_only_event_classes_and_schemas_can_be_registered(serializer: EventSerializer, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="EventSchema or from EventMessage"):
        serializer.register(wrong)


@pytest.mark.parametrize(
    "schema_class",
    [
        type("Nameless", (EventSchema,), {}),
        type("Schema", (EventSchema,), {}),
        type("MoneySchema", (EventSchema,), {"event_class": Money}),
    ],
)
def test_a_schema_that_does_not_say_its_event_is_refused(
    serializer: EventSerializer, schema_class: type[EventSchema]
) -> None:
    with pytest.raises(ConfigurationError, match="does not say which event it is for"):
        serializer.register(schema_class)


def test_an_event_class_that_cannot_be_read_is_refused_when_it_is_registered(
    serializer: EventSerializer,
) -> None:
    with pytest.raises(ConfigurationError, match="is not a dataclass"):
        serializer.register(Handwritten)


def test_the_process_has_one_shared_serializer() -> None:
    barrier = threading.Barrier(8)
    instances: list[EventSerializer] = []

    def ask() -> None:
        barrier.wait(timeout=10)
        instances.append(EventSerializer.instance())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)

    assert len(instances) == 8
    assert len(set(map(id, instances))) == 1


# Messages of others


def by_kind(body: Any, headers: Any) -> str | None:
    """Find the type of messages as another library may write them."""
    return body.get("kind") if isinstance(body, dict) else headers.get("kind")


def test_a_function_finds_the_type_in_the_body(serializer: EventSerializer) -> None:
    assert serializer.read(message('{"kind":"paid"}'), by_kind) == ("paid", {"kind": "paid"})


@pytest.mark.parametrize(
    ("body", "data"), [("[1]", [1]), ("null", None), ("Plain text.", "Plain text."), ("", "")]
)
def test_a_function_finds_the_type_of_what_is_not_an_object(
    serializer: EventSerializer, body: str, data: Any
) -> None:
    assert serializer.read(message(body, headers={"kind": "paid"}), by_kind) == ("paid", data)


def test_messages_of_melange_are_read_without_the_function(serializer: EventSerializer) -> None:
    body = '{"kind":"paid","event_type_name":"A"}'

    assert serializer.read(message(body, "A"), by_kind)[0] == "A"


def test_what_the_function_does_not_recognise_is_read_as_without_it(serializer: EventSerializer) -> None:
    assert serializer.read(message('{"event_type_name":"A"}'), by_kind)[0] == "A"
    for body, problem in [("text", "is not JSON"), ("[]", "is a list"), ("{}", "event_type=")]:
        with pytest.raises(DecodeError, match=problem):
            serializer.read(message(body), by_kind)


@pytest.mark.parametrize("name", [5, "", ["A"], 10**5_000], ids=["number", "empty", "list", "digits"])
def test_a_function_that_returns_no_name_is_refused(serializer: EventSerializer, name: Any) -> None:
    with pytest.raises(DecodeError, match=r"event_type= returned .*, it must return text or None"):
        serializer.read(message("{}"), lambda body, headers: name)


def test_a_function_that_fails_makes_the_message_malformed(serializer: EventSerializer) -> None:
    with pytest.raises(DecodeError, match="event_type= failed with KeyError") as refused:
        serializer.read(message('{"a": "4111-1111"}'), lambda body, headers: headers[body["a"]])

    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "body",
    ['{"a": NaN}', "[" * 100_000, '{"a": "\\ud800"}', "9" * 5_000],
    ids=["constant", "deep", "surrogate", "digits"],
)
def test_hostile_bodies_are_not_handed_to_the_function_as_text(
    serializer: EventSerializer, body: str
) -> None:
    with pytest.raises(DecodeError):
        serializer.read(message(body), lambda body, headers: "A")


def test_a_class_cannot_be_loaded_from_what_is_not_an_object(serializer: EventSerializer) -> None:
    with pytest.raises(DecodeError, match="'ProductAdded' is refused: Must be an object"):
        serializer.load("ProductAdded", "text", ProductAdded)


def test_each_listener_is_given_its_own_form(serializer: EventSerializer) -> None:
    name, data = serializer.read(message('{"event_type_name":"ProductAdded","product_id":1,"name":"x"}'))

    assert serializer.load(name, data, ProductAdded) == ProductAdded(1, "x")
    assert serializer.load(name, data) == {"event_type_name": "ProductAdded", "product_id": 1, "name": "x"}
