"""The marshmallow schema of a dataclass, derived from its annotations (see ``melange.serialization.derivation``).

Missing fields take the dataclass's defaults; fields with ``init=False`` are written and not read;
unknown ones are ignored, so that a newer publisher does not break an older consumer.
"""

# MERGED DOCS: The field for an annotation.

from __future__ import annotations

import dataclasses
import threading
import types
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar, Literal, NewType, Union, get_args, get_origin, get_type_hints

from marshmallow import EXCLUDE, Schema, fields, post_load

from melange.errors import ConfigurationError
from melange.events import EVENT_TYPE_KEY, EventMessage
from melange.serialization.fields import (
    ANYTHING,
    CONVERSIONS,
    FixedTuple,
    Items,
    NestedDataclass,
    Scalar,
    StrictField,
    TextMapping,
    enum_conversion,
    literal_conversion,
)

Nest = Callable[[type], StrictField]
"""Returns the field for a dataclass within another."""


class UnsupportedAnnotationError(Exception):
    """No field can be derived from this annotation."""


def field_for(annotation: Any, nest: Nest) -> StrictField:
    """Return a new field for ``annotation``, which must be evaluated and free of ``Annotated``.

    Raises:
        UnsupportedAnnotationError: as it says.
    """
    annotation = _unwrapped(annotation)
    if isinstance(annotation, type):  # Any, too
        return _field_of_class(annotation, nest)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _optional(annotation, arguments, nest)
    if origin is Literal:
        return _literal(annotation, arguments)
    if origin is tuple and arguments[-1:] != (...,) and arguments:
        return FixedTuple([field_for(argument, nest) for argument in arguments])
    if origin in (list, tuple, set, frozenset):
        return Items(origin, field_for(arguments[0] if arguments else Any, nest))
    if origin is dict:
        key, value = arguments or (str, Any)
        if _unwrapped(key) is not str:
            raise UnsupportedAnnotationError(annotation)
        return TextMapping(field_for(value, nest))
    raise UnsupportedAnnotationError(annotation)


def _unwrapped(annotation: Any) -> Any:
    while isinstance(annotation, NewType):
        annotation = annotation.__supertype__
    return annotation


def _field_of_class(annotation: type, nest: Nest) -> StrictField:
    if annotation in CONVERSIONS:
        return Scalar(CONVERSIONS[annotation])
    if issubclass(annotation, Enum):
        return Scalar(enum_conversion(annotation))
    if dataclasses.is_dataclass(annotation):
        return nest(annotation)
    if annotation in (list, tuple, set, frozenset):
        return Items(annotation, field_for(Any, nest))
    if annotation is dict:
        return TextMapping(field_for(Any, nest))
    if annotation is Any:
        anything = Scalar(ANYTHING)
        anything.allow_none = True
        return anything
    raise UnsupportedAnnotationError(annotation.__qualname__)


def _optional(annotation: Any, arguments: tuple[Any, ...], nest: Nest) -> StrictField:
    present = [argument for argument in arguments if argument is not types.NoneType]
    if len(present) != 1:
        raise UnsupportedAnnotationError(annotation)
    field = field_for(present[0], nest)
    field.allow_none = True
    return field


def _literal(annotation: Any, values: tuple[Any, ...]) -> StrictField:
    present = [value for value in values if value is not None]
    if not all(type(value) in (str, int, bool) for value in present):
        raise UnsupportedAnnotationError(annotation)
    field = Scalar(literal_conversion(present))
    field.allow_none = None in values
    return field


_DERIVED = "__melange_schema__"
_deriving = threading.Lock()


class DataclassSchema(Schema):
    """Loads to ``dataclass_type``, whose constructor's exceptions pass as they are."""

    dataclass_type: ClassVar[type]

    class Meta:
        unknown = EXCLUDE
        register = False

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        return getattr(obj, attr, default)

    @post_load
    def make(self, values: dict[str, Any], **_: Any) -> Any:
        return self.dataclass_type(**values)


def derived_schema(event_class: type[EventMessage]) -> Schema:
    """Return the schema of ``event_class``: made once, thread-safe.

    Raises:
        ConfigurationError: no dataclass, or an annotation that cannot be derived; names class and field.
    """
    # Kept on the class: a table of classes would keep them, or their schemas, from being collected.
    schema: Schema | None = vars(event_class).get(_DERIVED)
    if schema is None:
        with _deriving:
            schema = vars(event_class).get(_DERIVED)
            if schema is None:
                schema = _derive(event_class)
                setattr(event_class, _DERIVED, schema)
    return schema


def _derive(event_class: type[EventMessage]) -> Schema:
    schemas: dict[type, Schema] = {}
    pending: list[type] = [event_class]

    def nest(dataclass_type: type) -> StrictField:
        pending.append(dataclass_type)
        return NestedDataclass(dataclass_type, schemas)

    for dataclass_type in pending:
        if dataclass_type not in schemas:
            schemas[dataclass_type] = _dataclass_schema(dataclass_type, nest)
    return schemas[event_class]


def _dataclass_schema(dataclass_type: type, nest: Nest) -> Schema:
    hints = _resolved_hints(dataclass_type)
    _check_constructor(dataclass_type, hints)
    declared: dict[str, fields.Field[Any]] = {}
    for field in dataclasses.fields(dataclass_type):
        try:
            derived = field_for(hints[field.name], nest)
        except UnsupportedAnnotationError as error:
            raise _refusal(
                dataclass_type, field.name, f"is annotated {error}, which has no JSON form"
            ) from None
        derived.dump_only = not field.init
        derived.required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        declared[field.name] = derived
    schema_class: type[DataclassSchema] = type(
        f"{dataclass_type.__name__}Schema", (DataclassSchema,), dict(declared)
    )
    # Afterwards, because a field may have this name.
    schema_class.dataclass_type = dataclass_type
    return schema_class()


def _resolved_hints(dataclass_type: type) -> dict[str, Any]:
    _check_decorated(dataclass_type)
    try:
        try:
            return get_type_hints(dataclass_type)
        except NameError:
            # A class within a function that refers to itself.
            return get_type_hints(dataclass_type, localns={dataclass_type.__name__: dataclass_type})
    except NameError as error:
        unresolved = (
            field.name for field in dataclasses.fields(dataclass_type) if str(error.name) in str(field.type)
        )
        problem = f"refers to {error.name!r}, which its module does not define (yet)"
        raise _refusal(dataclass_type, next(unresolved, "?"), problem) from error
    except Exception as error:
        # An annotation is an expression, and can raise anything.
        problem = f"cannot be evaluated ({type(error).__name__})"
        raise _refusal(dataclass_type, "?", problem) from error


def _check_decorated(dataclass_type: type) -> None:
    if not dataclasses.is_dataclass(dataclass_type):
        raise ConfigurationError(
            f"{full_name(dataclass_type)} is no dataclass: decorate it with @dataclass, {_ADVICE}"
        )
    names = {field.name for field in dataclasses.fields(dataclass_type)}
    if EVENT_TYPE_KEY in names and issubclass(dataclass_type, EventMessage):
        raise ConfigurationError(
            f"{full_name(dataclass_type)}: event_type_name belongs to the class and cannot be a field: "
            "remove its annotation, or rename the field"
        )
    if "__dataclass_fields__" in vars(dataclass_type):
        return
    undecorated = [name for name in vars(dataclass_type).get("__annotations__", ()) if name not in names]
    if undecorated:
        raise ConfigurationError(
            f"{full_name(dataclass_type)} inherits from a dataclass and is none itself, so that "
            f"{', '.join(undecorated)} would not travel: decorate it with @dataclass too"
        )


def _check_constructor(dataclass_type: type, hints: dict[str, Any]) -> None:
    for name, hint in hints.items():
        if isinstance(hint, dataclasses.InitVar) and not hasattr(dataclass_type, name):
            raise _refusal(dataclass_type, name, "is an InitVar without a default, which does not travel")


_ADVICE = (
    "or write an EventSchema for the event and register it with EventSerializer.instance().register(...)"
)


def _refusal(dataclass_type: type, field_name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"no schema can be derived for {full_name(dataclass_type)}: its field {field_name!r} {problem}. "
        f"Change the annotation, {_ADVICE}"
    )


def full_name(class_: type) -> str:
    """Return the class's name with its module, to tell it from others of the same name."""
    return f"{class_.__module__}.{class_.__qualname__}"
