"""What is said and checked when a subscriber was called."""

from __future__ import annotations

from typing import Any, Literal

from melange.errors import ConfigurationError
from melange.handlers import Handler, qualified_name

ErrorPolicy = Literal["raise", "collect"]
"""Whether the first error of a subscriber ends a publish, or all run and an ``ExceptionGroup`` follows."""


def refuse_awaitable(handler: Handler, result: Any) -> None:
    """Raise when a handler that was called synchronously returned something to be awaited."""
    if is_awaitable(result):
        if hasattr(result, "close"):
            result.close()  # a coroutine that nobody awaits would warn
        raise ConfigurationError(
            f"{qualified_name(handler)} returned a {type(result).__name__}, which nobody awaits: publish with "
            "`await bus.publish_async(event)`"
        )


def is_awaitable(result: Any) -> bool:
    """Return whether a handler's result is a coroutine or the like."""
    return hasattr(type(result), "__await__")


def explain(error: BaseException, handler: Handler, event: object) -> None:
    """Note on the error which handler raised it on which event."""
    error.add_note(f"raised by {qualified_name(handler)}, handling {type(event).__qualname__}")
