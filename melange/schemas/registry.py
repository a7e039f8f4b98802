"""Which schema and which class belong to an event type."""

from __future__ import annotations

import threading

from marshmallow import Schema

from melange.errors import ConfigurationError, DuplicateHandlerError
from melange.events import EventMessage, EventSchema
from melange.schemas.derived import derived_schema, full_name

_SCHEMA_SUFFIX = "Schema"


class SchemaRegistry:
    """The schemas and classes that were registered, and the derived schemas of all others. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._schemas: dict[str, EventSchema] = {}
        self._event_classes: dict[str, type[EventMessage]] = {}

    def event_class(self, event_type_name: str) -> type[EventMessage] | None:
        """Return the class registered for this type."""
        return self._event_classes.get(event_type_name)

    def written_schema(self, event_type_name: str) -> Schema | None:
        """Return the schema registered for this type."""
        return self._schemas.get(event_type_name)

    def schema_of(self, event_class: type[EventMessage]) -> Schema:
        """Return the schema registered for this class, or the derived one.

        Raises:
            ConfigurationError: none is registered and none can be derived.
        """
        written = self._schemas.get(event_class.event_type_name)
        if written is not None and written.event_class in (None, event_class):
            return written
        return derived_schema(event_class)

    def add_event_class(self, event_class: type[EventMessage]) -> None:
        self.schema_of(event_class)
        with self._lock:
            self._claim(event_class)

    def add_schema(self, schema_class: type[EventSchema]) -> None:
        name = _event_type_name_of(schema_class)
        schema = schema_class()
        with self._lock:
            _check_free(name, "schema", type(self._schemas.get(name, schema)), schema_class)
            if schema_class.event_class is not None:
                self._claim(schema_class.event_class)
            self._schemas.setdefault(name, schema)

    def _claim(self, event_class: type[EventMessage]) -> None:
        name = event_class.event_type_name
        _check_free(name, "class", self._event_classes.setdefault(name, event_class), event_class)


def _event_type_name_of(schema_class: type[EventSchema]) -> str:
    event_class = schema_class.event_class
    if isinstance(event_class, type) and issubclass(event_class, EventMessage):
        return event_class.event_type_name
    name = schema_class.__name__.removesuffix(_SCHEMA_SUFFIX)
    if event_class is not None or name in ("", schema_class.__name__):
        raise ConfigurationError(
            f"{full_name(schema_class)} does not say which event it is for: name it after the event's type "
            "(ProductAddedSchema) or set event_class to a class that inherits from EventMessage"
        )
    return name


def _check_free(name: str, kind: str, registered: type, wanted: type) -> None:
    if registered is not wanted:
        raise DuplicateHandlerError(
            f"the event type {name!r} has the {kind} {full_name(registered)} already, so that "
            f"{full_name(wanted)} cannot be registered: give one of them another event_type_name"
        )
