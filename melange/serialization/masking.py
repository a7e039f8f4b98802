"""Bodies of events for printing, with the values of sensitive fields masked.

A field is sensitive if its class or its schema says so: ``field(metadata={"sensitive": True})``. Names are masked
wherever they occur in the body, because a body that has to be printed is often malformed: a sensitive value may stand
where its class does not expect it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from marshmallow import Schema, fields

from melange.errors import DecodeError, EncodeError
from melange.events import EVENT_TYPE_KEY, EventMessage, is_pydantic_model
from melange.serialization.introspection import is_alias, without_alias, without_wrappers
from melange.serialization.json import from_json, to_json
from melange.serialization.schema import nested_fields
from melange.serialization.serializer import EventSerializer

MASK = "***"
"""What is printed in place of a sensitive value."""

SENSITIVE = "sensitive"
"""The key in a field's metadata."""


def masked_body(
    event: str | Mapping[str, Any] | EventMessage,
    event_type_name: str | None = None,
    serializer: EventSerializer | None = None,
) -> str:
    """Return the event's body as JSON text for printing, with ``***`` in place of each sensitive value.

    ``event`` is a message's body, a dict or a typed event. ``event_type_name`` is the type that the message's headers
    name; the type in the body counts too. Classes are found by that name among all that this process has imported, and
    schemas in ``serializer``, by default the shared one. A body without sensitive values is returned as it is. A
    body that is not JSON, or is nested too deeply, becomes ``***`` if its type has sensitive fields. Null stays null.

    The text may contain control characters; a terminal needs them escaped.

    Raises:
        EncodeError: ``event`` is a dict or a typed event that cannot be written.
    """
    serializer = serializer or EventSerializer.instance()
    body = event if isinstance(event, str) else serializer.encode(event, event_type_name)[1]
    try:
        data = from_json(body)
    except DecodeError:
        return MASK if sensitive_names(event_type_name, serializer) else body
    type_in_body = data.get(EVENT_TYPE_KEY) if isinstance(data, dict) else None
    names: frozenset[str] = frozenset()
    for type_name in {event_type_name, type_in_body if isinstance(type_in_body, str) else None}:
        names |= sensitive_names(type_name, serializer) or frozenset()
    if not names:
        return body
    try:
        return to_json(_masked(data, names))
    except (EncodeError, RecursionError):  # of a message from others, nested more deeply than an event may be
        return MASK


def sensitive_names(
    event_type_name: str | None, serializer: EventSerializer | None = None
) -> frozenset[str] | None:
    """Return the names that are masked in events of this type; None if neither class nor schema is known for it."""
    schema = (serializer or EventSerializer.instance()).registered_schema(event_type_name or "")
    classes = [one for one in _event_classes(EventMessage) if one.event_type_name == event_type_name]
    if schema is None and not classes:
        return None
    names: set[str] = set()
    for event_class in classes:
        names.update(_names_of_class(event_class, set()))
    if schema is not None:
        names.update(_names_of_schema(schema, set()))
    return frozenset(names)


def _masked(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: MASK if key in names and item is not None else _masked(item, names)
            for key, item in value.items()
        }
    return [_masked(item, names) for item in value] if isinstance(value, list) else value


def _event_classes(base: type[EventMessage]) -> Iterator[type[EventMessage]]:
    for event_class in base.__subclasses__():
        yield event_class
        yield from _event_classes(event_class)


def _names_of_class(annotation: Any, seen: set[Any]) -> Iterator[str]:
    """Yield the sensitive names of the classes in ``annotation``, which may contain each other."""
    annotation = without_wrappers(annotation)
    if annotation in seen:
        return
    seen.add(annotation)
    if is_alias(annotation) or is_alias(get_origin(annotation)):
        yield from _names_of_class(without_alias(annotation), seen)
        return
    for argument in get_args(annotation):
        if not isinstance(argument, (list, str)):
            yield from _names_of_class(argument, seen)
    class_ = get_origin(annotation) or annotation
    if not isinstance(class_, type):
        return
    if is_pydantic_model(class_):
        from melange.serialization.pydantic_models import names_of_model  # noqa: PLC0415 - it imports pydantic

        yield from names_of_model(class_, set(), only_sensitive=True)
    elif dataclasses.is_dataclass(class_):
        for field in dataclasses.fields(class_):
            if field.metadata.get(SENSITIVE):
                yield field.metadata.get("name", field.name)
    elif not hasattr(class_, "__required_keys__") and not hasattr(class_, "_field_defaults"):
        return
    for hint in _hints(class_).values():
        yield from _names_of_class(hint, seen)


def _hints(class_: type) -> dict[str, Any]:
    try:
        return get_type_hints(class_)
    except Exception:  # an annotation is an expression, and can raise any exception
        return {}


def _names_of_schema(schema: Schema, seen: set[type[Schema]]) -> Iterator[str]:
    if type(schema) in seen:
        return
    seen.add(type(schema))
    field: fields.Field[Any]
    for name, field in schema.fields.items():
        if field.metadata.get(SENSITIVE):
            yield field.data_key or name
        for nested in nested_fields(field):
            yield from _names_of_schema(nested.schema, seen)
