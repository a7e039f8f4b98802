"""What a handler function says about itself: the types that it takes, whether it must be awaited, where it stands."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from melange.errors import ConfigurationError

Handler = Callable[..., Any]


def qualified_name(thing: Any) -> str:
    """Return the dotted name of a function, a class, or the class of an object."""
    named = _function_of(inspect.unwrap(thing))
    if not hasattr(named, "__qualname__"):
        named = type(named)
    return f"{named.__module__}.{named.__qualname__}"


def place(thing: Any) -> str:
    """Return the dotted name, and for functions the file and line, to tell two of one name apart."""
    code = getattr(inspect.unwrap(_function_of(thing)), "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"{qualified_name(thing)}{where}"


def is_asynchronous(handler: Handler) -> bool:
    """Return whether calling it makes a coroutine.

    Raises:
        ConfigurationError: it is a generator, so that calling it would run nothing.
    """
    function = _function_of(handler)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{place(handler)} is a generator: calling it runs nothing, so it cannot be a handler"
        )
    return inspect.iscoroutinefunction(function)


def annotated_types(handler: Handler, advice: str) -> tuple[type, ...]:
    """Return the classes that its first parameter is annotated with: several for a union, ``object`` for ``Any``.

    ``advice`` ends the error, and says how to name the types instead.

    Raises:
        ConfigurationError: there is no annotation, or none that names classes which can be found.
    """
    annotation = _first_annotation(handler, advice)
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    classes = tuple(object if member is Any else member for member in members)
    for member in classes:
        if not isinstance(member, type):
            raise ConfigurationError(
                f"{place(handler)} is annotated with {annotation!r}, which is no class or union of classes: {advice}"
            )
    return classes


def _first_annotation(handler: Handler, advice: str) -> Any:
    try:
        parameter = next(iter(inspect.signature(handler).parameters.values()), None)
    except (ValueError, TypeError, NameError) as error:
        raise ConfigurationError(f"the parameters of {place(handler)} cannot be read: {advice}") from error
    if parameter is None or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
        raise ConfigurationError(f"{place(handler)} must take one positional argument, what it handles")
    if parameter.annotation is parameter.empty:
        raise ConfigurationError(f"the first parameter of {place(handler)} has no annotation: {advice}")
    # The first one alone: others may name what exists for type checkers only.
    stand_in = types.SimpleNamespace(__annotations__={"first": parameter.annotation})
    names = getattr(inspect.unwrap(_function_of(handler)), "__globals__", {})
    try:
        return typing.get_type_hints(stand_in, globalns=names)["first"]
    except Exception as error:  # whatever looking up a name in somebody's module raises
        raise ConfigurationError(
            f"the annotation {parameter.annotation!r} of {place(handler)} cannot be resolved: {advice}"
        ) from error


def _function_of(thing: Any) -> Any:
    while isinstance(thing, functools.partial):
        thing = thing.func
    if isinstance(thing, types.MethodType):
        return thing.__func__
    if isinstance(thing, type) or inspect.isroutine(thing):
        return thing
    call = getattr(type(thing), "__call__", None)  # noqa: B004  what it is, not whether there is one
    return call if inspect.isfunction(call) else thing


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
