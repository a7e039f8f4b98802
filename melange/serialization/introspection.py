"""What the classes say that schemas are derived from: their annotations as types, and what their constructors take.

A class that cannot be an event is refused here, with an error that says what to change.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NewType,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from melange.errors import ConfigurationError
from melange.events import (
    EVENT_TYPE_KEY,
    EVENT_VERSION_KEY,
    EventMessage,
    Occurrence,
    full_name,
    is_pydantic_model,
)

_ADVICE = (
    "or write an EventSchema for the event and register it with EventSerializer.instance().register(...)"
)


def check_dataclass(dataclass_type: type) -> None:
    """Raise ``ConfigurationError`` if the class is not a dataclass, or one that cannot be an event."""
    if not dataclasses.is_dataclass(dataclass_type):
        raise ConfigurationError(
            f"{full_name(dataclass_type)}{foreign_kind(dataclass_type)} is not a dataclass: "
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
    for name in (EVENT_TYPE_KEY, EVENT_VERSION_KEY):
        if name in names and issubclass(dataclass_type, EventMessage):
            raise ConfigurationError(
                f"{full_name(dataclass_type)}: {name} belongs to the class and cannot be a field: "
                "remove its annotation, or rename the field"
            )


def foreign_kind(class_: type) -> str:
    """Return the kind of a class that looks like a dataclass and is not one."""
    if is_pydantic_model(class_):
        return " (a pydantic model; inherit from melange.pydantic.EventModel)"
    return " (an attrs class)" if hasattr(class_, "__attrs_attrs__") else ""


def resolved_hints(class_: type, field_types: dict[str, Any]) -> dict[str, Any]:
    """Return the annotations as objects; ``field_types`` are those of the fields as they were written."""
    try:
        try:
            return get_type_hints(class_, include_extras=True)
        except NameError:
            # A class within a function that refers to itself.
            return get_type_hints(class_, localns={class_.__name__: class_}, include_extras=True)
    except NameError as error:
        unresolved = (name for name, annotation in field_types.items() if str(error.name) in str(annotation))
        problem = f"refers to {error.name!r}, which its module does not define (yet)"
        raise refusal(class_, next(unresolved, "?"), problem) from error
    except Exception as error:
        # An annotation is an expression, and can raise any exception.
        problem = f"cannot be evaluated ({type(error).__name__})"
        raise refusal(class_, "?", problem) from error


def check_decorated(dataclass_type: type, hints: dict[str, Any]) -> None:
    """Refuse annotations that are not fields, because their class has no decorator."""
    names = {field.name for field in dataclasses.fields(dataclass_type)}
    for owner in dataclass_type.__mro__:
        if "__dataclass_fields__" in vars(owner) or not _is_part_of_an_event(owner):
            continue
        lost = [
            name
            for name in own_annotations(owner)
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

    def own_annotations(owner: type) -> dict[str, Any]:
        """Return the annotations of the class without those of its bases."""
        return annotationlib.get_annotations(owner, format=annotationlib.Format.FORWARDREF)

else:

    def own_annotations(owner: type) -> dict[str, Any]:
        """Return the annotations of the class without those of its bases."""
        return inspect.get_annotations(owner)


def constructor_arguments(dataclass_type: type) -> tuple[set[str] | None, bool]:
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
                raise refusal(
                    dataclass_type,
                    parameter.name,
                    "is required by the constructor and is an InitVar or not a field at all, so it does not travel",
                )
        elif parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise refusal(dataclass_type, parameter.name, "cannot be given to the constructor by its name")
    return None if takes_anything else taken, bool(taken - names)


def wire_name(class_: type, field: dataclasses.Field[Any], taken: set[str]) -> str:
    """Return the field's name on the wire."""
    key = field.metadata.get("name", field.name)
    if not isinstance(key, str) or not key:
        raise refusal(class_, field.name, "has a 'name' in its metadata that is not text, or empty")
    if key in taken:
        raise refusal(class_, field.name, f"has the name {key!r} on the wire, which another field has")
    if issubclass(class_, EventMessage) and key in (EVENT_TYPE_KEY, EVENT_VERSION_KEY):
        raise refusal(class_, field.name, f"has the name {key!r} on the wire, which belongs to melange")
    return key


def refusal(class_: type, field_name: str, problem: str) -> ConfigurationError:
    """Return the error about a field for which no schema can be derived."""
    return ConfigurationError(
        f"no schema can be derived for {full_name(class_)}: its field {field_name!r} {problem}. "
        f"Change the annotation, {_ADVICE}"
    )


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
    return get_type_hints(holder, globalns=names, include_extras=True)["value"]


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
            if isinstance(origin, type) and origin is not Generic:
                pending.append(
                    (origin, tuple(substituted(one, types_of_variables) for one in get_args(base)))
                )
    return found


def is_required_key(hint: Any, *, default: bool) -> bool:
    """Return True if a key of a typed dict must be there, by the qualifiers in its annotation, else by the class."""
    # With postponed annotations the class itself does not see the qualifiers.
    while (origin := get_origin(hint)) is not None and not isinstance(origin, type):
        if origin is Required or getattr(origin, "_name", None) == "Required":
            return True
        if origin is NotRequired or getattr(origin, "_name", None) == "NotRequired":
            return False
        hint = get_args(hint)[0] if origin not in (Union, Literal) else None
    return default
