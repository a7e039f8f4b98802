"""Functions around handlers, composed once, when a handler is registered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from melange.callables import (
    Handler,
    hides_a_coroutine_function,
    is_asynchronous,
    is_awaitable,
    place,
    refuse_awaitable,
)
from melange.errors import ConfigurationError

HandlerMiddleware = Callable[[Any, Callable[[Any], Any]], Any]
"""Takes a command or query and a function that calls the rest. It may call that once, twice or not at all."""


def composed(handler: Handler, middleware: Sequence[HandlerMiddleware]) -> Handler:
    """Return the handler inside of all middleware, the first one outermost.

    It is asynchronous if one of them is.

    Raises:
        ConfigurationError: a plain function is around something asynchronous, so it would get a coroutine
            and not a result.
    """
    for around in reversed(middleware):
        if hides_a_coroutine_function(around):
            handler = _around_async(around, handler)
        elif is_asynchronous(handler):
            raise ConfigurationError(
                f"the middleware {place(around)} is a plain function and {place(handler)} inside of it is asynchronous: "
                "write the middleware with `async def`, and `await` what is inside"
            )
        else:
            handler = _around(around, handler)
    return handler


def _around(around: HandlerMiddleware, handler: Handler) -> Handler:
    advice = f"the middleware {place(around)} is a plain function, so write it with `async def`, and `await` what is inside"

    @functools.wraps(handler)
    def call_inside(message: Any) -> Any:
        result = handler(message)
        if result is not None:
            refuse_awaitable(handler, result, advice)
        return result

    @functools.wraps(handler)
    def handle(message: Any) -> Any:
        return around(message, call_inside)

    return handle


def _around_async(around: HandlerMiddleware, handler: Handler) -> Handler:
    @functools.wraps(handler)
    async def call_inside(message: Any) -> Any:
        return await awaited(handler(message))

    @functools.wraps(handler)
    async def handle(message: Any) -> Any:
        return await awaited(around(message, call_inside))

    return handle


async def awaited(result: Any) -> Any:
    """Return the result of a handler of either kind."""
    return await result if is_awaitable(result) else result
