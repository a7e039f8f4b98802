"""Django's middleware: a scope of domain events, and an outbox, for each request."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from django.utils.decorators import sync_and_async_middleware

from melange.django.outbox import unit_of_work


@sync_and_async_middleware
def domain_events(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Open the groups of the setting ``MELANGE``, and the outbox, around each view.

    A view that publishes to the outbox does so inside of ``transaction.atomic()``.
    """

    async def handle_async(request: Any) -> Any:
        with unit_of_work():
            return await get_response(request)

    def handle(request: Any) -> Any:
        with unit_of_work():
            return get_response(request)

    return handle_async if iscoroutinefunction(get_response) else handle
