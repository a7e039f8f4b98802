"""Coroutines of listeners: their time limit, and their containment."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Awaitable
from concurrent.futures import CancelledError
from typing import Any

from melange.errors import TimeLimitExceeded

logger = logging.getLogger(__name__)

CANCELLING_SECONDS = 5.0
"""How long a cancelled coroutine may clean up."""


async def within(limit_seconds: float, awaitable: Awaitable[object], what: str) -> None:
    """Await it; after the limit cancel it, and give it up if it has not ended some seconds later.

    Raises:
        TimeLimitExceeded: it took longer. What it raises itself is passed on.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait([task], timeout=limit_seconds)
        is_over = not task.done()
        if is_over:
            task.cancel()
            await asyncio.wait([task], timeout=CANCELLING_SECONDS)
    except asyncio.CancelledError:  # the worker stops
        task.cancel()
        raise
    if not task.done():
        logger.error("%s ignores its cancellation and is given up; it is at\n%s", what, _stack_of(task))
    if is_over and (not task.done() or task.cancelled()):
        raise TimeLimitExceeded(what, limit_seconds)
    task.result()


def _stack_of(task: asyncio.Future[object]) -> str:
    text = io.StringIO()
    if isinstance(task, asyncio.Task):
        task.print_stack(file=text)
    return text.getvalue()


async def how_it_ended(awaitable: Awaitable[object]) -> BaseException | None:
    """Await it; return the exception with which it ended, or None."""
    try:
        await awaitable
    except (
        asyncio.CancelledError
    ):  # a cancelled run is a failed run: the exception of futures is an ordinary one
        return CancelledError()
    except (SystemExit, KeyboardInterrupt) as error:
        return _not_for_the_loop(error)
    except GeneratorExit:  # the loop was closed before its end
        raise
    except BaseException as error:
        return error
    return None


async def contained(awaitable: Awaitable[Any]) -> Any:
    """Return what it returns; an exception that would end the event loop fails only this run."""
    try:
        return await awaitable
    except (SystemExit, KeyboardInterrupt) as error:
        raise _not_for_the_loop(error) from error


def _not_for_the_loop(error: BaseException) -> RuntimeError:
    return RuntimeError(f"an asynchronous listener raised {type(error).__name__}")
