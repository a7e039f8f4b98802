"""Checks of handlers: when they are registered, and of their results.

Handlers are functions, bound methods, ``functools.partial`` objects and objects with ``__call__``. Listeners, subscribers of
domain events, handlers of commands and middleware all use this module.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, cast

from melange.errors import ConfigurationError

Handler = Callable[..., Any]


# Names, for people.


def qualified_name(thing: Any) -> str:
    """Return the dotted name of a function, a class, or the class of an object."""
    named = _function_of(inspect.unwrap(thing))
    if not isinstance(getattr(named, "__qualname__", None), str):
        named = type(named)
    return f"{named.__module__}.{named.__qualname__}"


def place(thing: Any) -> str:
    """Return the dotted name, and for functions file and line, to distinguish two with one name."""
    code = getattr(inspect.unwrap(_function_of(thing)), "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if isinstance(code, types.CodeType) else ""
    return f"{qualified_name(thing)}{where}"


# Calling: with one argument, and the result may need an await.


def check_takes_one(handler: Handler) -> None:
    """Check that the handler can be called with one positional argument.

    Raises:
        ConfigurationError: it cannot; often it is a method registered in the body of its class, not bound to
            an object yet.
    """
    if inspect.isfunction(handler) and _is_unbound_method(inspect.unwrap(handler)):
        raise ConfigurationError(
            f"{place(handler)} is a method in the body of its class, bound to no object yet: "
            f"make an object and register its method {handler.__name__}"
        )
    # A decorator may pass more arguments than it takes, or show only the signature of the function below it.
    if not (_binds(handler, follow_wrapped=True) or _binds(handler, follow_wrapped=False)):
        raise ConfigurationError(f"{place(handler)} must take one positional argument, what it handles")


def is_asynchronous(handler: Handler) -> bool:
    """Return True if calling it certainly makes a coroutine.

    A decorator may hide an ``async def``, or run it: then only the result shows it (``is_awaitable``).

    Raises:
        ConfigurationError: it is a generator, so calling it would run nothing.
    """
    function = _function_of(handler)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{place(handler)} is a generator: calling it runs nothing, so it cannot be a handler"
        )
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(function)


def hides_a_coroutine_function(handler: Handler) -> bool:
    """Return True if it is a coroutine function, or one decorated with ``functools.wraps``."""
    return is_asynchronous(handler) or is_asynchronous(inspect.unwrap(_function_of(handler)))


def is_awaitable(result: Any) -> bool:
    """Return True if what a handler returned is a coroutine, a future or the like."""
    return hasattr(type(result), "__await__") or (
        type(result) is types.GeneratorType and inspect.isawaitable(result)  # one of `types.coroutine`
    )


def refuse_awaitable(handler: Handler, result: Any, advice: str) -> None:
    """Check that what a handler returned to a synchronous caller need not be awaited.

    ``advice`` ends the error, and says how to call the handler.

    Raises:
        ConfigurationError: it must be awaited. A coroutine is closed, so that it never runs.
    """
    if is_awaitable(result):
        if hasattr(result, "close"):
            result.close()  # a coroutine that is never awaited would warn
        raise ConfigurationError(
            f"{qualified_name(handler)} returned a {type(result).__name__}, which is never awaited: {advice}"
        )


# Types: given when the handler is registered, or by the annotation of its first parameter.


def annotated_types(handler: Handler, advice: str) -> tuple[type, ...]:
    """Return the classes that its first parameter is annotated with: several for a union, ``object`` for ``Any``.

    ``advice`` ends the error, and says how to name the types.

    Raises:
        ConfigurationError: there is no annotation, or its classes cannot be found.
    """
    annotation = _first_annotation(handler, advice)
    return classes_of(annotation, f"the annotation of {place(handler)}", advice)


def classes_of(annotation: Any, origin: str, advice: str = "name a class") -> tuple[type, ...]:
    """Return the classes of this annotation; ``issubclass`` accepts each of them.

    ``origin`` begins the error, and says where the annotation is.

    Raises:
        ConfigurationError: it is not a class, or one that ``issubclass`` does not take.
    """
    if isinstance(annotation, type) and annotation is not Any and typing.get_origin(annotation) is None:
        problem = _problem_with_class(annotation)
        if problem:
            raise ConfigurationError(f"{origin} names {annotation.__qualname__}, which is {problem}")
        return (annotation,)
    if annotation is Any:
        return (object,)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = (classes_of(member, origin, advice) for member in typing.get_args(annotation))
        return tuple(dict.fromkeys(one for classes in members for one in classes))
    if typing.get_origin(annotation) is typing.Annotated:
        return classes_of(annotation.__origin__, origin, advice)
    if type(annotation).__name__ == "TypeAliasType":  # `type Event = ...`, from Python 3.12 on
        return classes_of(annotation.__value__, origin, advice)
    raise ConfigurationError(f"{origin} names {annotation!r}, which is {_what_it_is(annotation)}: {advice}")


def is_type_form(thing: Any) -> bool:
    """Return True if this is meant as a class, fit or not, and not as a handler."""
    return (
        isinstance(thing, (type, str, typing.NewType, typing.TypeVar))
        or typing.get_origin(thing) is not None
        or type(thing).__name__ == "TypeAliasType"
    )


def _problem_with_class(candidate: type) -> str | None:
    if typing.is_typeddict(candidate):
        return "a TypedDict: its objects are plain dicts, which nothing tells apart"
    if getattr(candidate, "_is_protocol", False):
        try:
            issubclass(object, candidate)
        except TypeError as error:
            return (
                f"a protocol, and Python cannot tell which classes implement it ({error}): name the classes, or make it "
                "@runtime_checkable and let it declare methods alone"
            )
    return None


def _what_it_is(annotation: Any) -> str:
    if isinstance(annotation, str):
        return "no class but text"
    if isinstance(annotation, typing.TypeVar):
        return "no class but a type variable"
    if isinstance(annotation, typing.NewType):
        return f"no class: only type checkers tell it from {annotation.__supertype__!r}"
    origin = typing.get_origin(annotation)
    if isinstance(origin, type):
        return (
            f"no class or union of classes: objects do not know their type arguments, so that {origin.__qualname__} "
            "is all that can be named"
        )
    return "no class or union of classes"


def _first_annotation(handler: Handler, advice: str) -> Any:
    try:
        parameter = next(iter(_signature(handler).parameters.values()), None)
    except (ValueError, TypeError, NameError) as error:
        raise ConfigurationError(f"the parameters of {place(handler)} cannot be read: {advice}") from error
    if parameter is None or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
        raise ConfigurationError(f"{place(handler)} must take one positional argument, what it handles")
    if parameter.annotation is parameter.empty:
        raise ConfigurationError(f"the first parameter of {place(handler)} has no annotation: {advice}")
    # Only the first one: others may name types that exist for type checkers only.
    stand_in = types.SimpleNamespace(__annotations__={"first": parameter.annotation})
    names = getattr(inspect.unwrap(_function_of(handler)), "__globals__", {})
    try:
        return typing.get_type_hints(stand_in, globalns=names)["first"]
    except Exception as error:  # any exception from looking up a name in another module
        raise ConfigurationError(
            f"the annotation {parameter.annotation!r} of {place(handler)} cannot be resolved: {advice}"
        ) from error


def _signature(handler: Handler, *, follow_wrapped: bool = True) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        import annotationlib  # noqa: PLC0415  not on older ones

        # Annotations are lazy there: those which exist for type checkers only would raise a NameError.
        return inspect.signature(
            handler, follow_wrapped=follow_wrapped, annotation_format=annotationlib.Format.FORWARDREF
        )
    return inspect.signature(handler, follow_wrapped=follow_wrapped)


def _binds(handler: Handler, *, follow_wrapped: bool) -> bool:
    try:
        signature = _signature(handler, follow_wrapped=follow_wrapped)
    except (ValueError, TypeError):  # some that are written in C do not tell
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def _is_unbound_method(function: Any) -> bool:
    if not inspect.isfunction(function):
        return False
    outside = function.__qualname__.rpartition(".")[0]
    is_in_a_class = bool(outside) and not outside.endswith("<locals>")
    return is_in_a_class and function.__code__.co_varnames[:1] == ("self",)


def _function_of(thing: Any) -> Any:
    while isinstance(thing, functools.partial):
        thing = thing.func
    if isinstance(thing, types.MethodType):
        return thing.__func__
    if isinstance(thing, type) or inspect.isroutine(thing):
        return thing
    call = getattr(type(thing), "__call__", None)  # noqa: B004  what it is, not whether there is one
    return cast(Any, call) if inspect.isfunction(call) else thing
