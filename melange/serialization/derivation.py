"""Schemas derived from the annotations of dataclasses, or an error that says what to change.

A derived schema can read what it writes, and the object read equals the object written. A class for which this is not
possible raises ``ConfigurationError`` at its first use.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import threading
import types
from enum import Enum, Flag
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Literal, NewType, Union, get_args, get_origin, get_type_hints

from melange.errors import ConfigurationError
from melange.events import EVENT_TYPE_KEY, OCCURRED_ON_KEY, EventMessage, Occurrence, is_pydantic_model
from melange.serialization.conversions import (
    ANYTHING,
    ANYTHING_HASHABLE,
    CONVERSIONS,
    enum_conversion,
    literal_conversion,
)
from melange.serialization.dataclass_field import OCCURRED_ON, DataclassField, Member
from melange.serialization.derived_schema import DerivedSchema
from melange.serialization.fields import Field, FixedTuple, Items, Nullable, Scalar, TextMapping

_DERIVED = "__melange_schema__"
_deriving = threading.Lock()

_MOST_FLAG_BITS = 16
"""Python keeps every combination that it has seen, so a sender could fill the memory with combinations of more."""

_CONTAINERS = (list, tuple, set, frozenset, dict)

_ADVICE = (
    "or write an EventSchema for the event and register it with EventSerializer.instance().register(...)"
)


def derived_schema(event_class: type[EventMessage]) -> DerivedSchema:
    """Return the schema of ``event_class``: made once, thread-safe.

    Raises:
        ConfigurationError: not a dataclass, or it cannot be derived; names class and field.
    """
    # Kept on the class: a table of classes would keep them, or their schemas, from being collected.
    schema: DerivedSchema | None = vars(event_class).get(_DERIVED)
    if schema is None:
        with _deriving:
            schema = vars(event_class).get(_DERIVED)
            if schema is None:
                schema = DerivedSchema(_Derivation().derive(event_class))
                setattr(event_class, _DERIVED, schema)
    return schema


class _UnsupportedAnnotationError(Exception):
    """No field can be derived from this annotation."""


class _Derivation:
    """Derives one event class and the dataclasses within it.

    ``in_set`` means that the value is part of an item of a set, and must have a hash.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[type, bool], DataclassField] = {}
        self._pending: list[tuple[type, bool]] = []

    def derive(self, event_class: type) -> DataclassField:
        schema = self._dataclass(event_class, in_set=False)
        for dataclass_type, in_set in self._pending:
            self._complete(dataclass_type, in_set=in_set)
        return schema

    def _dataclass(self, dataclass_type: type, *, in_set: bool) -> DataclassField:
        key = (dataclass_type, in_set)
        if key not in self._made:
            self._made[key] = DataclassField(dataclass_type)
            self._pending.append(key)
        return self._made[key]

    def _complete(self, dataclass_type: type, *, in_set: bool) -> None:
        _check_kind(dataclass_type)
        hints = _resolved_hints(dataclass_type)
        _check_decorated(dataclass_type, hints)
        fields = dataclasses.fields(dataclass_type)
        arguments, has_others = _constructor_arguments(dataclass_type)
        members: list[Member] = []
        if issubclass(dataclass_type, Occurrence) and all(field.name != OCCURRED_ON_KEY for field in fields):
            members.append(OCCURRED_ON)
        for field in fields:
            try:
                derived = self._field(hints[field.name], in_set=in_set)
            except _UnsupportedAnnotationError as error:
                raise _refusal(
                    dataclass_type, field.name, f"is annotated {error}, which has no JSON form"
                ) from None
            is_argument = field.init and (arguments is None or field.name in arguments)
            has_default = (
                field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            )
            members.append(
                Member(field.name, field.name, derived, is_argument and not has_default, is_argument)
            )
        self._made[dataclass_type, in_set].complete(members, has_other_arguments=has_others)

    def _field(self, annotation: Any, *, in_set: bool) -> Field:
        annotation = _unwrapped(annotation)
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin in _CONTAINERS and not arguments:  # typing.List, for one
            annotation = origin
        if isinstance(annotation, type):  # Any, too
            return self._field_of_class(annotation, in_set=in_set)
        if origin in (Union, types.UnionType):
            present = [argument for argument in arguments if argument is not types.NoneType]
            if len(present) == 1:
                return Nullable(self._field(present[0], in_set=in_set))
        elif origin is Literal:
            return _literal(annotation, arguments)
        elif origin is tuple and arguments[-1:] != (...,):
            return FixedTuple([self._field(argument, in_set=in_set) for argument in arguments])
        elif origin in (list, tuple, set, frozenset):
            return self._items(annotation, origin, arguments[0], in_set=in_set)
        elif origin is dict and not in_set and _unwrapped(arguments[0]) is str:
            return TextMapping(self._field(arguments[1], in_set=False))
        raise _UnsupportedAnnotationError(annotation)

    def _field_of_class(self, annotation: type, *, in_set: bool) -> Field:
        if annotation in CONVERSIONS:
            return Scalar(CONVERSIONS[annotation])
        if issubclass(annotation, Flag) and _number_of_bits(annotation) > _MOST_FLAG_BITS:
            raise _UnsupportedAnnotationError(
                f"{annotation.__qualname__} with more than {_MOST_FLAG_BITS} bits"
            )
        if issubclass(annotation, Enum):
            return Scalar(enum_conversion(annotation))
        if dataclasses.is_dataclass(annotation) and not (in_set and annotation.__hash__ is None):
            return self._dataclass(annotation, in_set=in_set)
        if annotation in (list, tuple, set, frozenset):
            return self._items(annotation, annotation, Any, in_set=in_set)
        if annotation is dict and not in_set:
            return TextMapping(self._field(Any, in_set=False))
        if annotation is Any:
            return Nullable(Scalar(ANYTHING_HASHABLE if in_set else ANYTHING))
        raise _UnsupportedAnnotationError(f"{annotation.__qualname__}{_foreign_kind(annotation)}")

    def _items(self, annotation: Any, container: type, item: Any, *, in_set: bool) -> Field:
        is_set = container in (set, frozenset)
        if in_set and container not in (tuple, frozenset):
            raise _UnsupportedAnnotationError(f"{annotation} in a set")
        return Items(container, self._field(item, in_set=in_set or is_set))


def _unwrapped(annotation: Any) -> Any:
    while isinstance(annotation, NewType):
        annotation = annotation.__supertype__
    return annotation


def _number_of_bits(flag_type: type[Flag]) -> int:
    return reduce(or_, (member.value for member in flag_type.__members__.values()), 0).bit_count()


def _literal(annotation: Any, values: tuple[Any, ...]) -> Field:
    present = [value for value in values if value is not None]
    if not all(type(value) in (str, int, bool) for value in present):
        raise _UnsupportedAnnotationError(annotation)
    field = Scalar(literal_conversion(present))
    return Nullable(field) if None in values else field


def _foreign_kind(class_: type) -> str:
    """Return the kind of a class that looks like a dataclass and is not one."""
    if is_pydantic_model(class_):
        return " (a pydantic model; pydantic's dataclasses are supported)"
    return " (an attrs class)" if hasattr(class_, "__attrs_attrs__") else ""


def _check_kind(dataclass_type: type) -> None:
    if not dataclasses.is_dataclass(dataclass_type):
        raise ConfigurationError(
            f"{full_name(dataclass_type)}{_foreign_kind(dataclass_type)} is not a dataclass: "
            f"decorate it with @dataclass, {_ADVICE}"
        )
    if (
        issubclass(dataclass_type, Occurrence)
        and hasattr(dataclass_type, "__pydantic_validator__")
        and "__slots__" not in vars(dataclass_type)
    ):
        raise ConfigurationError(
            f"{full_name(dataclass_type)} is a pydantic dataclass without slots, and its constructor drops the "
            "event's occurred_on: decorate it with @pydantic.dataclasses.dataclass(slots=True), or with the "
            "standard library's @dataclass"
        )
    names = {field.name for field in dataclasses.fields(dataclass_type)}
    if EVENT_TYPE_KEY in names and issubclass(dataclass_type, EventMessage):
        raise ConfigurationError(
            f"{full_name(dataclass_type)}: event_type_name belongs to the class and cannot be a field: "
            "remove its annotation, or rename the field"
        )


def _resolved_hints(dataclass_type: type) -> dict[str, Any]:
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
        # An annotation is an expression, and can raise any exception.
        problem = f"cannot be evaluated ({type(error).__name__})"
        raise _refusal(dataclass_type, "?", problem) from error


def _check_decorated(dataclass_type: type, hints: dict[str, Any]) -> None:
    """Refuse annotations that are not fields, because their class has no decorator."""
    names = {field.name for field in dataclasses.fields(dataclass_type)}
    for owner in dataclass_type.__mro__:
        if "__dataclass_fields__" in vars(owner) or not _is_part_of_an_event(owner):
            continue
        lost = [
            name
            for name in _own_annotations(owner)
            if name not in names
            and hints.get(name) is not ClassVar
            and get_origin(hints.get(name)) is not ClassVar
        ]
        if lost:
            raise ConfigurationError(
                f"{full_name(owner)} is not decorated with @dataclass, so that {', '.join(lost)} would not "
                "travel: decorate it with @dataclass too, or annotate with ClassVar what belongs to the class"
            )


def _is_part_of_an_event(owner: type) -> bool:
    if owner.__module__ == Occurrence.__module__:
        return False
    return dataclasses.is_dataclass(owner) or issubclass(owner, Occurrence)


if sys.version_info >= (3, 14):
    # The standard library has a name for it only from here on.
    import annotationlib

    def _own_annotations(owner: type) -> dict[str, Any]:
        return annotationlib.get_annotations(owner, format=annotationlib.Format.FORWARDREF)

else:

    def _own_annotations(owner: type) -> dict[str, Any]:
        return inspect.get_annotations(owner)


def _constructor_arguments(dataclass_type: type) -> tuple[set[str] | None, bool]:
    """Return what the constructor takes by name, None for anything, and whether some of that are not fields."""
    names = {field.name for field in dataclasses.fields(dataclass_type)}
    taken: set[str] = set()
    takes_anything = False
    # Of __init__ and not of the class, because Occurrence.__new__ takes anything.
    constructor = inspect.signature(dataclass_type.__init__)  # type: ignore[misc]  # that of this very class
    parameters = list(constructor.parameters.values())[1:]
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_anything = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            taken.add(parameter.name)
            if parameter.default is parameter.empty and parameter.name not in names:
                raise _refusal(
                    dataclass_type,
                    parameter.name,
                    "is required by the constructor and is an InitVar or not a field at all, so it does not travel",
                )
        elif parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise _refusal(dataclass_type, parameter.name, "cannot be given to the constructor by its name")
    return None if takes_anything else taken, bool(taken - names)


def _refusal(dataclass_type: type, field_name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"no schema can be derived for {full_name(dataclass_type)}: its field {field_name!r} {problem}. "
        f"Change the annotation, {_ADVICE}"
    )


def full_name(class_: type) -> str:
    """Return the class's name with its module, to distinguish classes with one name."""
    return f"{class_.__module__}.{class_.__qualname__}"
