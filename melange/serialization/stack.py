"""A second try, on a new stack, for a call that failed with a full stack."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any


class NestedTooDeeplyError(Exception):
    """A whole stack is not enough."""


def on_a_fresh_stack(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` in a new thread, with a whole stack and the caller's context, and return its result.

    So it does not depend on the depth of the consumer's own calls if a message can be read.

    Raises:
        NestedTooDeeplyError: it ends in a ``RecursionError`` there, too.
        RecursionError: the caller's stack has no place left for this call.
    """
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:  # raised again in the thread that asked
            errors.append(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), name="melange-fresh-stack")
    thread.start()
    thread.join()
    for error in errors:
        if isinstance(error, RecursionError):
            raise NestedTooDeeplyError from error
        raise error
    return results[0]
