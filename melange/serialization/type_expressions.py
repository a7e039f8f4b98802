"""What an annotation stands for: without its wrappers and aliases, and with types in place of type variables."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, NewType, NotRequired, Required, TypeVar, get_args, get_origin

# typing_extensions has the same names for older versions of Python, as objects of its own.
_QUALIFIERS = frozenset({"Annotated", "NotRequired", "ReadOnly", "Required"})

TypesOfVariables = Mapping[Any, Any]


def without_wrappers(annotation: Any) -> Any:
    """Return what is within ``NewType``, ``Annotated``, ``Required`` and the like."""
    while True:
        origin = get_origin(annotation)
        if isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif origin in (Annotated, Required, NotRequired) or getattr(origin, "_name", None) in _QUALIFIERS:
            annotation = get_args(annotation)[0]
        else:
            return annotation


def is_alias(annotation: Any) -> bool:
    """Return True for ``type X = ...``, also for one of typing_extensions."""
    return type(annotation).__name__ == "TypeAliasType"


def without_alias(annotation: Any) -> Any:
    """Return what the alias stands for, with its arguments in place of its variables."""
    origin = get_origin(annotation)
    if origin is None:
        return _value_of(annotation)
    return substituted(
        _value_of(origin), dict(zip(origin.__type_params__, get_args(annotation), strict=False))
    )


def _value_of(alias: Any) -> Any:
    # Before Python 3.12 an alias names what is defined after it in quotes.
    holder = types.SimpleNamespace(__annotations__={"value": alias.__value__})
    names = vars(sys.modules[alias.__module__]) if alias.__module__ in sys.modules else {}
    return typing.get_type_hints(holder, globalns=names, include_extras=True)["value"]


def substituted(annotation: Any, types_of_variables: TypesOfVariables) -> Any:
    """Return the annotation with types in place of its variables: the given one, a default, the bound, or Any."""
    if isinstance(annotation, TypeVar) or type(annotation).__name__ == "TypeVar":
        return types_of_variables.get(annotation, _type_of_free(annotation))
    variables = getattr(annotation, "__parameters__", ())
    if not variables or isinstance(annotation, type):
        return annotation
    return annotation[
        tuple(types_of_variables.get(variable, _type_of_free(variable)) for variable in variables)
    ]


def _type_of_free(variable: Any) -> Any:
    if getattr(variable, "has_default", lambda: False)():
        return variable.__default__
    return variable.__bound__ or Any


def types_by_owner(class_: type, arguments: tuple[Any, ...]) -> dict[type, TypesOfVariables]:
    """Return for a class and each of its generic bases what their type variables stand for.

    For each by itself, because two classes may use one variable for different types.
    """
    found: dict[type, TypesOfVariables] = {}
    pending = [(class_, arguments)]
    for owner, given in pending:
        if owner in found:
            continue
        types_of_variables = dict(zip(getattr(owner, "__parameters__", ()), given, strict=False))
        found[owner] = types_of_variables
        for base in vars(owner).get("__orig_bases__", owner.__bases__):
            origin = get_origin(base) or base
            if isinstance(origin, type) and origin is not typing.Generic:
                pending.append(
                    (origin, tuple(substituted(one, types_of_variables) for one in get_args(base)))
                )
    return found
