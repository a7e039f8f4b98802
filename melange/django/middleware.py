"""A scope of domain events, and an outbox, around each request (Django's middleware) and each listener (melange's)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from django.db import close_old_connections
from django.utils.decorators import sync_and_async_middleware

from melange.consuming.listener import ListenerCall
from melange.consuming.outcomes import Outcome
from melange.django.outbox import unit_of_work
from melange.middleware import Middleware


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

    return handle_async if inspect.iscoroutinefunction(get_response) else handle


class DjangoListeners(Middleware):
    """Closes old connections around each run of a listener, as Django does around a request, and opens a scope."""

    def around_listener(self, call: ListenerCall, run: Callable[[ListenerCall], Outcome]) -> Outcome:
        process = call.subscription.process

        # Connections belong to threads, and a listener with a time limit has a thread of its own.
        def process_in_django(event: Any, **keywords: object) -> object:
            close_old_connections()
            try:
                with unit_of_work():
                    result = process(event, **keywords)
                return _in_scope(result) if inspect.isawaitable(result) else result
            finally:
                close_old_connections()

        return run(call._replace(subscription=replace(call.subscription, process=process_in_django)))


async def _in_scope(result: Awaitable[object]) -> object:
    with unit_of_work():
        return await result
