"""Schemas derived from the annotations of dataclasses, or an error that says what to change.

A derived schema can read what it writes, and the object read equals the object written. A class for which this is not
possible raises ``ConfigurationError`` at its first use.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import threading
import types
import typing
from collections.abc import Callable
from enum import Enum, Flag
from typing import Any, Literal, Union, get_args, get_origin

from melange.errors import ConfigurationError
from melange.events import (
    DERIVED_SCHEMA,
    OCCURRED_ON_KEY,
    EventMessage,
    Occurrence,
    is_pydantic_model,
)
from melange.serialization.conversions import (
    ANYTHING,
    ANYTHING_HASHABLE,
    CONVERSIONS,
    MOST_FLAG_BITS,
    enum_conversion,
    flag_bits,
    literal_conversion,
)
from melange.serialization.fields import (
    Deferred,
    Field,
    FixedTuple,
    Items,
    KeyedMapping,
    Nullable,
    Scalar,
    TextMapping,
    key_conversion,
)
from melange.serialization.introspection import (
    check_dataclass,
    check_decorated,
    constructor_arguments,
    foreign_kind,
    is_alias,
    is_required_key,
    own_annotations,
    refusal,
    resolved_hints,
    substituted,
    types_by_owner,
    wire_name,
    without_alias,
    without_wrappers,
)
from melange.serialization.records import (
    OCCURRED_ON,
    DataclassField,
    Item,
    Member,
    NamedTupleField,
    TypedDictField,
)
from melange.serialization.typed_events import DerivedSchema
from melange.serialization.unions import AmbiguousUnionError, Tagged, union_of

_deriving = threading.Lock()

_CONTAINERS = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def derived_schema(event_class: type[EventMessage]) -> DerivedSchema:
    """Return the schema of ``event_class``: made once, thread-safe.

    Raises:
        ConfigurationError: not a dataclass, or it cannot be derived; names class and field.
    """
    # Kept on the class: a table of classes would keep them, or their schemas, from being collected.
    schema: DerivedSchema | None = vars(event_class).get(DERIVED_SCHEMA)
    if schema is None:
        with _deriving:
            schema = vars(event_class).get(DERIVED_SCHEMA)
            if schema is None:
                schema = DerivedSchema(_Derivation().derive(event_class))
                setattr(event_class, DERIVED_SCHEMA, schema)
    return schema


class _UnsupportedAnnotationError(Exception):
    """No field can be derived from this annotation."""


class _Derivation:
    """Derives one event class and the classes within it.

    ``in_set`` means that the value is part of an item of a set, and must have a hash. ``metadata`` is that of the
    dataclass's field.
    """

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}
        self._completions: list[Callable[[], None]] = []
        # Of the field that is being derived.
        self._place: tuple[type, str] = (object, "")
        self._metadata: typing.Mapping[Any, Any] = {}
        self._used_metadata: set[str] = set()

    def derive(self, event_class: type) -> Field:
        if is_pydantic_model(event_class):
            return self._field_of_class(event_class, (), in_set=False)
        schema = self._dataclass(event_class, (), in_set=False)
        for complete in self._completions:  # which may add others
            complete()
        return schema

    def _once(self, key: Any, make: Callable[[], Any], complete: Callable[[Any], None]) -> Any:
        """Return the field for ``key``: made once, and completed later, because a class may contain itself."""
        if key not in self._made:
            made = self._made[key] = make()
            self._completions.append(lambda: complete(made))
        return self._made[key]

    def _dataclass(self, class_: type, arguments: tuple[Any, ...], *, in_set: bool) -> DataclassField:
        made: DataclassField = self._once(
            (class_, arguments, in_set),
            lambda: DataclassField(class_),
            lambda field: self._complete(field, arguments, in_set=in_set),
        )
        return made

    def _complete(self, made: DataclassField, type_arguments: tuple[Any, ...], *, in_set: bool) -> None:
        class_ = made.type
        check_dataclass(class_)
        fields = dataclasses.fields(class_)
        hints = resolved_hints(class_, {field.name: field.type for field in fields})
        check_decorated(class_, hints)
        types_of = types_by_owner(class_, type_arguments)
        arguments, has_others = constructor_arguments(class_)
        members: list[Member] = []
        if issubclass(class_, Occurrence) and all(field.name != OCCURRED_ON_KEY for field in fields):
            members.append(OCCURRED_ON)
        for field in fields:
            owner = next(one for one in class_.__mro__ if field.name in own_annotations(one))
            derived = self._field_of(
                class_,
                field.name,
                hints[field.name],
                types_of.get(owner, {}),
                in_set=in_set,
                metadata=field.metadata,
            )
            is_argument = field.init and (arguments is None or field.name in arguments)
            has_default = (
                field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            )
            key = wire_name(class_, field, {member.key for member in members})
            members.append(Member(field.name, key, derived, is_argument and not has_default, is_argument))
        made.complete(members, has_other_arguments=has_others)

    def _field_of(
        self,
        class_: type,
        name: str,
        annotation: Any,
        types_of_variables: typing.Mapping[Any, Any],
        *,
        in_set: bool,
        metadata: typing.Mapping[Any, Any] = types.MappingProxyType({}),
    ) -> Field:
        self._place, self._metadata, self._used_metadata = (class_, name), metadata, set()
        try:
            derived = self._field(substituted(annotation, types_of_variables), in_set=in_set)
        except _UnsupportedAnnotationError as error:
            raise refusal(class_, name, f"is annotated {error}, which has no JSON form") from None
        except AmbiguousUnionError as error:
            raise _ambiguity(class_, name, error) from None
        for key in ("unknown", "discriminator"):
            if key in metadata and key not in self._used_metadata:
                raise refusal(
                    class_, name, f"has {key!r} in its metadata, which fits nothing in its annotation"
                )
        return derived

    def _field(self, annotation: Any, *, in_set: bool) -> Field:  # noqa: PLR0911 - one for each kind of annotation
        annotation = without_wrappers(annotation)
        if is_alias(annotation) or is_alias(get_origin(annotation)):
            return self._alias(annotation, in_set=in_set)
        annotation = substituted(annotation, {})
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin in (*_CONTAINERS, *_MAPPINGS) and not arguments:  # typing.List, for one
            annotation = origin
        if isinstance(annotation, type):  # Any, too
            return self._field_of_class(annotation, (), in_set=in_set)
        if origin in (Union, types.UnionType):
            return self._union(arguments, in_set=in_set)
        if origin is Literal:
            return _literal(annotation, arguments)
        if origin is tuple and arguments[-1:] != (...,):
            return FixedTuple([self._field(argument, in_set=in_set) for argument in arguments])
        if origin in _CONTAINERS:
            return self._items(annotation, _CONTAINERS[origin], arguments[0], in_set=in_set)
        if origin in _MAPPINGS and not in_set:
            return self._mapping(annotation, *arguments)
        if isinstance(origin, type):
            return self._field_of_class(origin, arguments, in_set=in_set)
        raise _UnsupportedAnnotationError(annotation)

    def _field_of_class(  # noqa: PLR0911 - one for each kind of class
        self, class_: type, arguments: tuple[Any, ...], *, in_set: bool
    ) -> Field:
        if class_ in CONVERSIONS:
            return Scalar(CONVERSIONS[class_])
        if class_ is Any:
            return Nullable(Scalar(ANYTHING_HASHABLE if in_set else ANYTHING))
        if issubclass(class_, Enum):
            return self._enum(class_)
        if class_ in _CONTAINERS:
            return self._items(class_, _CONTAINERS[class_], Any, in_set=in_set)
        if class_ in _MAPPINGS and not in_set:
            return self._mapping(class_, str, Any)
        if dataclasses.is_dataclass(class_) and not (in_set and class_.__hash__ is None):
            return self._dataclass(class_, arguments, in_set=in_set)
        if issubclass(class_, tuple) and hasattr(class_, "_field_defaults"):
            return self._named_tuple(class_, arguments, in_set=in_set)
        if hasattr(class_, "__required_keys__") and not in_set:
            return self._typed_dict(class_, arguments)
        if is_pydantic_model(class_) and not (in_set and class_.__hash__ is None):
            from melange.serialization.pydantic_models import ModelField  # noqa: PLC0415 - it imports pydantic

            model: Any = class_
            return ModelField(model)
        raise _UnsupportedAnnotationError(f"{class_.__qualname__}{foreign_kind(class_)}")

    def _alias(self, annotation: Any, *, in_set: bool) -> Field:
        key = (annotation, in_set)
        if key in self._made:
            known: Field = self._made[key]
            return known
        deferred = self._made[key] = Deferred()
        deferred.field = self._field(without_alias(annotation), in_set=in_set)
        self._made[key] = deferred.field
        return deferred.field

    def _union(self, arguments: tuple[Any, ...], *, in_set: bool) -> Field:
        present = [argument for argument in arguments if argument is not types.NoneType]
        fields = [self._field(argument, in_set=in_set) for argument in present]
        if any(isinstance(field, Deferred) and field.field is None for field in fields):
            raise AmbiguousUnionError("an alias contains itself, and not in a list or a mapping")
        # An alias may stand for a union that has None in it.
        is_nullable = len(present) < len(arguments) or any(isinstance(field, Nullable) for field in fields)
        if len(fields) > 1:
            fields = [field.field if isinstance(field, Nullable) else field for field in fields]
            field, tagged = union_of(
                fields, [_name_of(one) for one in present], self._metadata.get("discriminator")
            )
            if tagged is not None:
                self._used_metadata.add("discriminator")
                self._completions.append(self._tagging(tagged))
        else:
            field = fields[0]
        return Nullable(field) if is_nullable else field

    def _tagging(self, tagged: Tagged) -> Callable[[], None]:
        class_, name = self._place

        def complete() -> None:
            try:
                tagged.complete()
            except AmbiguousUnionError as error:
                raise _ambiguity(class_, name, error) from None

        return complete

    def _enum(self, enum_type: type[Enum]) -> Field:
        if issubclass(enum_type, Flag) and flag_bits(enum_type).bit_count() > MOST_FLAG_BITS:
            raise _UnsupportedAnnotationError(
                f"{enum_type.__qualname__} with more than {MOST_FLAG_BITS} bits"
            )
        unknown = self._metadata.get("unknown")
        if isinstance(unknown, enum_type) and not isinstance(unknown, Flag):
            self._used_metadata.add("unknown")
            return Scalar(enum_conversion(enum_type, unknown))
        return Scalar(enum_conversion(enum_type))

    def _items(self, annotation: Any, container: type, item: Any, *, in_set: bool) -> Field:
        is_set = container in (set, frozenset)
        if in_set and get_origin(annotation) in (collections.abc.Sequence, collections.abc.Set):
            container = frozenset if is_set else tuple
        if in_set and container not in (tuple, frozenset):
            raise _UnsupportedAnnotationError(f"{annotation} in a set")
        return Items(container, self._field(item, in_set=in_set or is_set))

    def _mapping(self, annotation: Any, key: Any, item: Any) -> Field:
        key_field = self._field(key, in_set=True)
        value_field = self._field(item, in_set=False)
        if isinstance(key_field, Scalar):
            if key_field.conversion is CONVERSIONS[str]:
                return TextMapping(value_field)
            conversion = key_conversion(key_field.conversion)
            if conversion is not None:
                return KeyedMapping(Scalar(conversion), value_field)
        raise _UnsupportedAnnotationError(annotation)

    def _named_tuple(self, class_: Any, arguments: tuple[Any, ...], *, in_set: bool) -> Field:
        def complete(made: NamedTupleField) -> None:
            hints = resolved_hints(class_, own_annotations(class_))
            variables = types_by_owner(class_, arguments)[class_]
            made.items = [
                self._field_of(class_, name, hints.get(name, Any), variables, in_set=in_set)
                for name in class_._fields
            ]
            made.required = len(class_._fields) - len(class_._field_defaults)

        made: Field = self._once((class_, arguments, in_set), lambda: NamedTupleField(class_), complete)
        return made

    def _typed_dict(self, class_: Any, arguments: tuple[Any, ...]) -> Field:
        def complete(made: TypedDictField) -> None:
            hints = resolved_hints(class_, own_annotations(class_))
            variables = types_by_owner(class_, arguments)[class_]
            made.items = {
                name: Item(
                    self._field_of(class_, name, hint, variables, in_set=False),
                    is_required_key(hint, default=name in class_.__required_keys__),
                )
                for name, hint in hints.items()
            }

        made: Field = self._once((class_, arguments), lambda: TypedDictField(class_.__name__), complete)
        return made


def _ambiguity(class_: type, name: str, error: AmbiguousUnionError) -> ConfigurationError:
    return refusal(class_, name, f"is a union that cannot be read: {error}")


def _literal(annotation: Any, values: tuple[Any, ...]) -> Field:
    present = [value for value in values if value is not None]
    if not all(type(value) in (str, int, bool) for value in present):
        raise _UnsupportedAnnotationError(annotation)
    field = Scalar(literal_conversion(present))
    return Nullable(field) if None in values else field


def _name_of(annotation: Any) -> str:
    """Return the type in words for an error."""
    annotation = without_wrappers(annotation)
    if annotation in CONVERSIONS:
        return CONVERSIONS[annotation].expectation
    return getattr(annotation, "__name__", None) or str(annotation)
