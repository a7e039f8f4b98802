"""Typed events to JSON objects and back, through their schemas: derived ones and those written by hand.

Exceptions of a schema's hooks, a class's ``__post_init__`` or the values' own methods are wrapped here. The error
names the type of the exception but not its text, which may quote values. The problems that a schema finds are reported
in words that may be logged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import Any

from marshmallow import Schema, ValidationError

from melange.errors import DecodeError, EncodeError, SerializationError, shortened
from melange.events import EVENT_TYPE_KEY, EVENT_VERSION_KEY, OCCURRED_ON_KEY, EventMessage
from melange.serialization.compiled_schemas import CompiledReader, CompiledWriter
from melange.serialization.fields import MOST_PROBLEMS, Field
from melange.serialization.json import (
    NestedTooDeeplyError,
    is_transportable,
    on_a_fresh_stack,
    text_to_json,
    to_json,
)
from melange.serialization.records import OCCURRED_ON, DataclassField
from melange.serialization.schema import nested_fields

_LONGEST_PROBLEM = 200


class DerivedSchema:
    """``dump`` and ``load`` are the description of a class; ``write`` and ``read`` do the same in a third of the time.

    Compiled at the first use, because a program may only write events of a class, or only read them.
    """

    def __init__(self, root: Field) -> None:
        self.root = root
        self._is_compiled = isinstance(root, DataclassField)  # pydantic has code of its own for its models

    def dump(self, event: Any) -> Any:
        """Return the event as JSON values; raises ``ValidationError``."""
        return self.root.dump(event)

    def load(self, data: Any) -> Any:
        """Return the event of the JSON values; raises ``ValidationError``."""
        return self.root.load(data)

    def write(self, event: Any) -> str | None:
        """Return the JSON text of ``dump``, or None if ``dump`` has to judge."""
        if not self._is_compiled:
            return None
        try:
            text = self.writer.write(event)
        except Exception:  # whatever it is, dump() meets it again
            return None
        return text if is_transportable(text) else None

    def read(self, data: Any) -> Any:
        """Return the event of ``load``, or None if ``load`` has to judge."""
        if not self._is_compiled:
            return None
        try:
            return self.reader.read(data)
        except Exception:  # whatever it is, load() meets it again
            return None

    @cached_property
    def writer(self) -> CompiledWriter:
        """The compiled function that writes."""
        assert isinstance(self.root, DataclassField)
        return CompiledWriter(self.root)

    @cached_property
    def reader(self) -> CompiledReader:
        """The compiled function that reads."""
        assert isinstance(self.root, DataclassField)
        return CompiledReader(self.root)


def encode(event: EventMessage, schema: Schema | DerivedSchema) -> str:
    """Return the event's body, JSON text with its type and time.

    Raises:
        EncodeError: a value is not of its field's type or not JSON, or the schema fails.
    """
    name = type(event).event_type_name
    text = schema.write(event) if not isinstance(schema, Schema) else None
    if text is None:
        return to_json(_dump(event, schema, name))
    version = type(event).event_version
    if version > 1:
        text = f'{text[:-1]},"{EVENT_VERSION_KEY}":{version}}}'
    return f'{text[:-1]},"{EVENT_TYPE_KEY}":{text_to_json(name)}}}'


def _dump(event: EventMessage, schema: Schema | DerivedSchema, name: str) -> dict[str, Any]:
    with _failures_as(EncodeError, f"the event of type {shortened(name)} cannot be written", schema):
        try:
            dumped = schema.dump(event)
        except RecursionError:
            dumped = on_a_fresh_stack(schema.dump, event)
        if OCCURRED_ON_KEY not in dumped:
            dumped = {OCCURRED_ON_KEY: _occurred_on(OCCURRED_ON.field.dump, event.occurred_on), **dumped}
        version = type(event).event_version
        return {**dumped, **({EVENT_VERSION_KEY: version} if version > 1 else {}), EVENT_TYPE_KEY: name}


def load(
    event_type_name: str,
    event_class: type[EventMessage] | None,
    schema: Schema | DerivedSchema,
    data: Any,
) -> EventMessage | dict[str, Any]:
    """Return the object of ``data``, or the loaded dict if neither class nor schema makes an object.

    Raises:
        DecodeError: the schema or the class refuses the data.
    """
    if not isinstance(schema, Schema):
        event: EventMessage | None = schema.read(data)
        if event is not None:
            return event
    with _failures_as(DecodeError, f"the event of type {shortened(event_type_name)} is refused", schema):
        if not isinstance(data, dict):
            raise ValidationError("Must be an object.")
        try:
            loaded = schema.load(data)
        except RecursionError:  # of the caller's own stack, perhaps
            loaded = on_a_fresh_stack(schema.load, data)
        if isinstance(loaded, dict):
            if event_class is None:
                return {EVENT_TYPE_KEY: event_type_name, **loaded}
            loaded = event_class(**_arguments(event_class, loaded))
        if not isinstance(loaded, EventMessage):
            raise TypeError(f"{type(schema).__name__} must load to a dict or an EventMessage")
        if (
            isinstance(schema, Schema)
            and not _declares_occurred_on(type(loaded))
            and data.get(OCCURRED_ON_KEY) is not None
        ):
            moment = _occurred_on(OCCURRED_ON.field.load, data[OCCURRED_ON_KEY])
            object.__setattr__(loaded, OCCURRED_ON_KEY, moment)
        return loaded


@contextmanager
def _failures_as(
    error_class: type[SerializationError], problem: str, schema: Schema | DerivedSchema
) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise error_class(f"{problem}: {_describe(error, schema)}") from error
    except NestedTooDeeplyError as error:
        raise error_class(f"{problem}: it is nested too deeply, or contains itself") from error
    except RecursionError:  # the caller's stack is full: that is not the event's fault
        raise
    except Exception as error:
        raise error_class(f"{problem}: its class or schema fails with {type(error).__name__}") from error


def _occurred_on(convert: Any, value: Any) -> Any:
    try:
        return convert(value)
    except ValidationError as error:
        raise ValidationError({OCCURRED_ON_KEY: error.messages}) from error


def _arguments(event_class: type[EventMessage], loaded: dict[str, Any]) -> dict[str, Any]:
    """Leave out the fields that melange adds itself, for schemas that also declare them."""
    carried = {EVENT_TYPE_KEY} if _declares_occurred_on(event_class) else {EVENT_TYPE_KEY, OCCURRED_ON_KEY}
    return {name: value for name, value in loaded.items() if name not in carried}


def _declares_occurred_on(event_class: type[EventMessage]) -> bool:
    return OCCURRED_ON_KEY in getattr(event_class, "__dataclass_fields__", ())


def _describe(error: ValidationError, schema: Schema | DerivedSchema) -> str:
    """Return the first problems as ``lines[3].price: Must be a decimal number.; ...``.

    Names that the schema does not declare are keys of the payload, and shown as ``*``.
    """
    # The messages of derived schemas contain only declared names.
    declared = _declared_names(schema) if isinstance(schema, Schema) else None
    found = list(islice(_problems(error.messages, "", declared), MOST_PROBLEMS + 1))
    more = ["and more"] if len(found) > MOST_PROBLEMS else []
    return "; ".join(found[:MOST_PROBLEMS] + more)


def _problems(messages: Any, path: str, declared: set[str] | None) -> Iterator[str]:
    if isinstance(messages, Mapping):
        for key, nested in messages.items():
            yield from _problems(nested, path + _step(key, declared), declared)
    elif isinstance(messages, (list, tuple)):
        for message in messages:
            yield from _problems(message, path, declared)
    else:
        place = path.removeprefix(".")
        # In no quotes: it is a sentence of its own.
        yield shortened(f"{place}: {messages}" if place else messages, _LONGEST_PROBLEM)[1:-1]


def _step(key: object, declared: set[str] | None) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    if key == "_schema":
        return ""
    return f".{key}" if declared is None or key in declared else ".*"


def _declared_names(schema: Schema) -> set[str]:
    names = {OCCURRED_ON_KEY}
    seen: set[type[Schema]] = set()
    pending = [schema]
    for nested_schema in pending:
        if type(nested_schema) in seen:
            continue
        seen.add(type(nested_schema))
        for name, field in nested_schema.fields.items():
            names.update((name, field.data_key or name))
            pending.extend(nested.schema for nested in nested_fields(field))
    return names
