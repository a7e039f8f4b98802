"""Sensitive fields are masked wherever an event is printed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, make_dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
from marshmallow import fields
from pydantic import AliasChoices, AliasPath, BaseModel, Field

from melange import EventMessage, EventSchema, EventSerializer, masked_body
from melange.messages import Message
from melange.pydantic import EventModel
from melange.serialization.masking import sensitive_names
from melange.testing.history import event_text

Item = TypeVar("Item")


@dataclass(frozen=True)
class Card:
    number: str = field(metadata={"sensitive": True})
    brand: str = "visa"


@dataclass(frozen=True)
class CustomerRegistered(EventMessage):
    customer_id: int
    email: str | None = field(metadata={"sensitive": True})
    cards: dict[str, list[Card]] = field(default_factory=dict)
    friend: CustomerRegistered | None = None


@dataclass(frozen=True)
class CustomerRemoved(EventMessage):
    customer_id: int


EVENT = CustomerRegistered(7, "ann@example.org", {"main": [Card("4111")]}, CustomerRegistered(8, "bob"))


def test_sensitive_values_are_masked_at_every_depth() -> None:
    body = EventSerializer().encode(EVENT)[1]

    printed = json.loads(masked_body(body))

    assert printed["customer_id"] == 7
    assert printed["email"] == "***"
    assert printed["cards"] == {"main": [{"number": "***", "brand": "visa"}]}
    assert printed["friend"]["email"] == "***"


@pytest.mark.parametrize("event", [EVENT, {"event_type_name": "CustomerRegistered", "email": "ann"}])
def test_events_are_masked_like_their_bodies(event: EventMessage | dict[str, Any]) -> None:
    assert json.loads(masked_body(event))["email"] == "***"


def test_the_type_may_stand_beside_the_body() -> None:
    assert masked_body('{"email": "ann"}', "CustomerRegistered") == '{"email":"***"}'


def test_a_type_in_the_body_does_not_unmask_that_of_the_headers() -> None:
    body = '{"event_type_name": "CustomerRemoved", "email": "ann"}'

    assert "ann" not in masked_body(body, "CustomerRegistered")


@pytest.mark.parametrize(
    "body",
    [
        '{"cards": "x", "email": {"work": "ann"}}',
        '{"customer_id": {"email": ["ann"]}}',
        '[{"email": "ann"}]',
        '{"event_type_name": 5, "email": "ann"}',
        '{"email": "ann"',
        '{"email": NaN, "x": "ann"}',
        '{"email": "\\ud800ann"}',
        '{"x":' * 300 + '{"email": "ann"}' + "}" * 300,
        '{"x":' * 5_000 + '{"email": "ann"}' + "}" * 5_000,
    ],
    ids=lambda body: f"{body[:30]} {len(body)}",
)
def test_malformed_bodies_are_masked_too(body: str) -> None:
    assert "ann" not in masked_body(body, "CustomerRegistered")


def test_null_stays_null() -> None:
    assert masked_body('{"email":null,"x":"\\u00fc"}', "CustomerRegistered") == '{"email":null,"x":"ü"}'


@pytest.mark.parametrize(
    "body", ['{"a" : 1}', "plain text", '{"event_type_name": "Foreign", "email": "ann"}']
)
@pytest.mark.parametrize("name", [None, "CustomerRemoved", "Foreign"])
def test_a_body_without_sensitive_fields_is_returned_as_it_is(body: str, name: str | None) -> None:
    assert masked_body(body, name) == body


def test_callers_can_ask_if_a_type_is_known() -> None:
    assert sensitive_names("CustomerRegistered") == {"email", "number"}
    assert sensitive_names("CustomerRemoved") == frozenset()
    assert sensitive_names("Foreign") is None
    assert sensitive_names(None) is None


def test_schemas_written_by_hand_say_what_is_sensitive() -> None:
    class PartSchema(EventSchema):
        event_class = CustomerRemoved  # a schema within another needs a name too
        pin = fields.String(metadata={"sensitive": True})

    class LoginSchema(EventSchema):
        password = fields.String(data_key="pass", metadata={"sensitive": True})
        parts = fields.List(fields.Nested(PartSchema))
        next = fields.Nested("LoginSchema")

    serializer = EventSerializer()
    serializer.register(LoginSchema)

    printed = masked_body('{"pass": "x", "parts": [{"pin": "1"}], "who": "ann"}', "Login", serializer)

    assert json.loads(printed) == {"pass": "***", "parts": [{"pin": "***"}], "who": "ann"}


def test_the_tree_of_a_failed_test_shows_no_sensitive_values() -> None:
    body = EventSerializer().encode(EVENT)[1]

    shown = event_text(Message("one", body, "CustomerRegistered"))

    assert "customer_id=7" in shown
    assert "ann@example.org" not in shown


def test_classes_of_every_kind_are_searched() -> None:
    class Login(BaseModel):
        password: str = Field(alias="pass", json_schema_extra={"sensitive": True})

    @dataclass
    class Holder(Generic[Item]):
        item: Item
        pin: str = field(default="", metadata={"sensitive": True, "name": "PIN"})

    class Record(NamedTuple):
        card: Card

    event_class = make_dataclass(
        "Searched", [("value", dict[int, Holder[Login] | Record] | None)], bases=(EventMessage,)
    )

    assert sensitive_names(event_class.event_type_name) == {"password", "pass", "PIN", "number"}


def test_a_sensitive_field_of_a_model_is_masked_under_each_of_its_names() -> None:
    class Account(EventModel):
        pin: str = Field(
            validation_alias=AliasChoices("PIN", AliasPath("secrets", 0)),
            json_schema_extra={"sensitive": True},
        )

    printed = masked_body('{"event_type_name": "Account", "PIN": "1234", "secrets": ["1234"], "bank": "x"}')

    assert Account.event_type_name == "Account"
    assert "1234" not in printed
    assert '"bank":"x"' in printed
