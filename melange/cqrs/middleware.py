"""Functions around handlers."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from melange.errors import ConfigurationError
from melange.handlers import Handler, is_asynchronous, place

Middleware = Callable[[Any, Callable[[Any], Any]], Any]
"""Takes a command or query and the rest of the way to its handler, which it may call, or not, or twice."""


def composed(handler: Handler, middleware: Sequence[Middleware]) -> Handler:
    """Return the handler inside of all middleware, the first one outermost.

    It is asynchronous if one of them is.

    Raises:
        ConfigurationError: a plain function stands around something asynchronous, so that it would see a
            coroutine where it expects a result.
    """
    for around in reversed(middleware):
        if is_asynchronous(around):
            handler = _around_async(around, handler)
        elif is_asynchronous(handler):
            raise ConfigurationError(
                f"the middleware {place(around)} is a plain function and {place(handler)} inside of it is asynchronous: "
                "write the middleware with `async def`, and `await` what is inside"
            )
        else:
            handler = _around(around, handler)
    return handler


def _around(around: Middleware, inside: Handler) -> Handler:
    @functools.wraps(inside)
    def handle(message: Any) -> Any:
        return around(message, inside)

    return handle


def _around_async(around: Middleware, inside: Handler) -> Handler:
    awaitable = inside if is_asynchronous(inside) else _awaitable(inside)

    @functools.wraps(inside)
    async def handle(message: Any) -> Any:
        return await around(message, awaitable)

    return handle


def _awaitable(handler: Handler) -> Callable[[Any], Awaitable[Any]]:
    @functools.wraps(handler)
    async def handle(message: Any) -> Any:
        return handler(message)

    return handle
