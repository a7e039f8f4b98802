"""Events to message bodies and back, and the registry of schemas and classes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from melange.errors import ConfigurationError, DecodeError, DuplicateHandlerError, EncodeError, shortened
from melange.events import DERIVED_SCHEMA, EVENT_TYPE_KEY, EventMessage, full_name
from melange.messages import JSON_CONTENT_TYPE, UNREADABLE, Message
from melange.serialization.json import NotJSONError, from_json, to_json
from melange.serialization.versions import Upcaster, Upcasters, check_version

if TYPE_CHECKING:
    from marshmallow import Schema

    from melange.serialization.schema import EventSchema
    from melange.serialization.typed_events import DerivedSchema

UpcasterFunction = TypeVar("UpcasterFunction", bound=Upcaster)

_LONGEST_REASON = 200

EventTypeOf = Callable[[Any, Mapping[str, str]], str | None]
"""Finds the type of a message that was published without melange, from its body and its headers.

The body is what its JSON says, usually a dict, or the text itself if it is not JSON. ``None`` means that
the function does not recognise the message.
"""


class EventSerializer:
    """Writes events as message bodies and reads them back. Thread-safe.

    Publishers and consumers use ``EventSerializer.instance()`` unless another is given. Dicts need no
    schema; only typed events go through one. No error quotes a payload.
    """

    _instance: ClassVar[EventSerializer | None] = None
    _instance_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._schemas: dict[str, EventSchema] = {}
        self._event_classes: dict[str, type[EventMessage]] = {}
        self._upcasters = Upcasters()

    @classmethod
    def instance(cls) -> EventSerializer:
        """Return the shared serializer of the process."""
        with cls._instance_lock:
            if EventSerializer._instance is None:
                EventSerializer._instance = EventSerializer()
            return EventSerializer._instance

    def encode(
        self, event: Mapping[str, Any] | EventMessage, event_type_name: str | None = None
    ) -> tuple[str, str]:
        """Return the event's type name and its body, JSON text that always includes the type.

        A dict has its type under ``event_type_name``, or it is the argument. The dict is not changed.

        Raises:
            EncodeError: no type, two different types, or a value that is not JSON; names the place.
            ConfigurationError: a typed event without a schema.
        """
        if isinstance(event, EventMessage):
            own_name = type(event).event_type_name
            if event_type_name not in (None, own_name):
                raise _two_types(own_name, event_type_name)
            # marshmallow takes a third of what importing melange would cost, and events as dicts do without.
            from melange.serialization import typed_events  # noqa: PLC0415

            return own_name, typed_events.encode(event, self._schema_of(type(event)))
        if isinstance(event, dict):
            fields: dict[str, Any] = event
        elif isinstance(event, Mapping):
            fields = dict(event)
        else:
            raise EncodeError(
                "an event is a dict or an object of a class that inherits from EventMessage, "
                f"not {type(event).__name__}: publish a dict of its fields, as model_dump(mode='json') of "
                "pydantic makes it, or a dataclass that inherits from EventMessage"
            )
        name = fields.get(EVENT_TYPE_KEY)
        if event_type_name is not None:
            if name is None:
                fields = {**fields, EVENT_TYPE_KEY: event_type_name}
            elif name != event_type_name:
                raise _two_types(name, event_type_name)
            name = event_type_name
        if not isinstance(name, str) or not name:
            raise EncodeError(
                f"event_type_name must be text and not empty, not {type(name).__name__}: put it into "
                "the dict or give it as an argument"
            )
        return name, to_json(fields)

    def read(self, message: Message, event_type: EventTypeOf | None = None) -> tuple[str, Any]:
        """Return the event's type name and the parsed body: read once, then ``load`` for each listener.

        The type of a message that melange published is beside the body, and ``event_type`` is not asked. For
        any other message ``event_type`` is asked first; when it is not given or returns None, the body must be
        an object with ``event_type_name`` in it. So what is returned is a dict, unless ``event_type``
        recognised a message with another body: a list, or the text of a body that is not JSON.

        Raises:
            DecodeError: says why the message is not an event. Also when ``event_type`` raises, because it would
                raise again at every attempt.
        """
        if message.content_type != JSON_CONTENT_TYPE and not _is_json(message.content_type):
            if message.content_type.startswith(UNREADABLE):
                raise DecodeError(shortened(message.content_type, _LONGEST_REASON)[1:-1])
            raise DecodeError(
                f"the content type is {shortened(message.content_type)}, not {JSON_CONTENT_TYPE}"
            )
        own_name = message.event_type_name
        if event_type is not None and own_name is None:
            name, data = _read_foreign(message, event_type)
        else:
            name, data = None, from_json(message.body)
        if name is None:
            name = data.get(EVENT_TYPE_KEY, own_name) if isinstance(data, dict) else None
            if not isinstance(name, str) or not name or (own_name and name != own_name):
                raise _untyped(own_name, data)
        if name in self._upcasters.types:
            data = self._upcasters.apply(name, data)
        return name, data

    def load(
        self, event_type_name: str, data: Any, event_class: type[EventMessage] | None = None
    ) -> EventMessage | Any:
        """Return the event in the form for one listener; ``event_type_name`` and ``data`` are from ``read``.

        With ``event_class`` it is an object of that class. Without, it is an object of the class that is
        registered for the type; a dict, loaded by the schema that is registered for the type; or ``data`` itself,
        not a copy.

        Raises:
            DecodeError: the schema or the class refuses the data; names the fields.
            ConfigurationError: the class has no schema.
        """
        if event_class is None:
            event_class = self._event_classes.get(event_type_name)
        schema: Schema | DerivedSchema | None
        if event_class is not None:
            check_version(event_class, data)
            schema = self._schema_of(event_class)
        else:
            schema = self._schemas.get(event_type_name)
            if schema is None:
                return data
        from melange.serialization import typed_events  # noqa: PLC0415 - see encode

        return typed_events.load(event_type_name, event_class, schema, data)

    def register(self, schema_or_event_class: type[EventSchema] | type[EventMessage]) -> None:
        """Register a schema written by hand, or a class for all events of its type.

        A schema replaces the derived one of its event. With an event class, given directly or as a
        schema's ``event_class``, all listeners receive objects of it for this type. Registering the same
        again changes nothing.

        Raises:
            DuplicateHandlerError: the type has another schema or another class already.
            ConfigurationError: neither a schema nor an event class; a schema that does not name its event; an
                event class without a registered schema, for which none can be derived.
        """
        from melange.serialization.schema import EventSchema  # noqa: PLC0415 - see encode

        if isinstance(schema_or_event_class, type) and issubclass(schema_or_event_class, EventSchema):
            self._add_schema(schema_or_event_class)
        elif isinstance(schema_or_event_class, type) and issubclass(schema_or_event_class, EventMessage):
            self.check_event_class(schema_or_event_class)
            with self._lock:
                self._claim_type(schema_or_event_class)
        else:
            raise ConfigurationError(
                "register() takes a class that inherits from EventSchema or from EventMessage, "
                f"not {schema_or_event_class!r}"
            )

    def upcast(
        self, event: str | type[EventMessage], version: int
    ) -> Callable[[UpcasterFunction], UpcasterFunction]:
        """Register the decorated function, which turns bodies of ``version`` into those of the next version.

        ``event`` is the name of a type, or a class. The function takes the body, a dict of JSON values, and returns it
        in the new form; it may change what it was given. It runs before all listeners, also for those that receive
        dicts. Functions for several versions are called one after the other.

        Raises:
            ConfigurationError: neither a name nor an event class, or not a version.
            DuplicateHandlerError: the version has another function.
        """

        def register(function: UpcasterFunction) -> UpcasterFunction:
            self._upcasters.add(event, version, function)
            return function

        return register

    def check_event_class(self, event_class: type[EventMessage]) -> None:
        """Raise ``ConfigurationError`` if events of this class cannot be written and read."""
        self._schema_of(event_class)

    def registered_schema(self, event_type_name: str) -> EventSchema | None:
        """Return the schema that was written by hand and registered for this type."""
        return self._schemas.get(event_type_name)

    def _schema_of(self, event_class: type[EventMessage]) -> Schema | DerivedSchema:
        written = self._schemas.get(event_class.event_type_name)
        if written is not None and written.event_class in (None, event_class):
            return written
        derived: DerivedSchema | None = vars(event_class).get(DERIVED_SCHEMA)
        return derived or _derived(event_class)

    def _add_schema(self, schema_class: type[EventSchema]) -> None:
        name = _event_type_name_of(schema_class)
        schema = schema_class()
        with self._lock:
            _check_free(name, "schema", type(self._schemas.get(name, schema)), schema_class)
            if schema_class.event_class is not None:
                self._claim_type(schema_class.event_class)
            self._schemas.setdefault(name, schema)

    def _claim_type(self, event_class: type[EventMessage]) -> None:
        name = event_class.event_type_name
        _check_free(name, "class", self._event_classes.setdefault(name, event_class), event_class)


def _derived(event_class: type[EventMessage]) -> DerivedSchema:
    # It imports much, which programs without typed events need not wait for.
    from melange.serialization.derivation import derived_schema  # noqa: PLC0415

    return derived_schema(event_class)


def _two_types(name: object, event_type_name: object) -> EncodeError:
    return EncodeError(
        f"the event says that it is of type {shortened(name)}, the call says {shortened(event_type_name)}"
    )


def _untyped(own_name: str | None, data: Any) -> DecodeError:
    """Return what is wrong with an event if its type is missing, or not that of the headers."""
    if not isinstance(data, dict):
        return DecodeError(f"the body is {_KINDS[type(data)]}, an event is an object")
    if EVENT_TYPE_KEY not in data:
        return DecodeError(
            "neither the headers nor the body say of what type the event is: if it was published without "
            "melange, give the consumer QueueOptions(event_type=...)"
        )
    name = data[EVENT_TYPE_KEY]
    if not isinstance(name, str) or not name:
        return DecodeError(
            f"event_type_name in the body is {_KINDS[type(name)]}, it must be text and not empty"
        )
    return DecodeError(
        f"the headers say that the event is of type {shortened(own_name)}, its body says {shortened(name)}"
    )


def _read_foreign(message: Message, event_type: EventTypeOf) -> tuple[str | None, Any]:
    """Return the type that ``event_type`` finds, None if it does not recognise the message, and the body."""
    problem = None
    try:
        data = from_json(message.body)
    except NotJSONError as error:
        data, problem = message.body, error
    try:
        name = event_type(data, message.headers)
    except Exception as error:
        raise DecodeError(
            f"event_type= failed with {type(error).__name__}: it must return None for what it does not recognise"
        ) from error
    if name is None:
        if problem is not None:
            raise problem
        return None, data
    if not isinstance(name, str) or not name:
        raise DecodeError(f"event_type= returned {shortened(name)}, it must return text or None")
    return name, data


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON_CONTENT_TYPE or media_type.endswith("+json")


_KINDS = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _event_type_name_of(schema_class: type[EventSchema]) -> str:
    event_class = schema_class.event_class
    if isinstance(event_class, type) and issubclass(event_class, EventMessage):
        return event_class.event_type_name
    name = schema_class.__name__.removesuffix("Schema")
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


def upcast(event: str | type[EventMessage], version: int) -> Callable[[UpcasterFunction], UpcasterFunction]:
    """Register an upcaster with the shared serializer; see ``EventSerializer.upcast``.

    For example:

        @upcast("OrderPlaced", 1)
        def with_currency(body):
            return {**body, "currency": "EUR"}
    """
    return EventSerializer.instance().upcast(event, version)
