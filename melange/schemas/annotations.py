"""The field for an annotation.

| annotation | on the wire |
|---|---|
| ``str``, ``int``, ``float``, ``bool`` | themselves; strict: 5.9 and true are no integers, NaN is no number |
| ``Decimal``, ``UUID`` | text |
| ``datetime``, ``date``, ``time`` | ISO 8601, naive or aware as they are |
| ``timedelta`` | seconds |
| ``Enum`` | the value where all values are text or integers, otherwise the name |
| ``Literal`` of text, integers, booleans, None | itself |
| a dataclass | object |
| ``list``, ``tuple[X, ...]``, ``set``, ``frozenset`` | array; sets sorted |
| ``tuple[X, Y]`` | array of that length |
| ``dict[str, X]`` | object |
| ``X | None``, ``Optional[X]`` | null or X |
| ``Any`` | any JSON, unchecked |

``NewType`` and ``Annotated`` count as what they wrap. Everything else is unsupported.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from enum import Enum
from typing import Any, Literal, NewType, Union, get_args, get_origin

from melange.schemas.scalars import ANYTHING, CONVERSIONS, enum_conversion, literal_conversion
from melange.schemas.strict_fields import FixedTuple, Items, Scalar, StrictField, TextMapping

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
