"""Django: a scope for each request, and mails after Django's own commit, under WSGI and ASGI."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"]}},
    MIDDLEWARE=["web.django_app.domain_events"],
    ROOT_URLCONF="web.django_app",
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402  after the settings, as in every single-file app
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.http import HttpRequest, HttpResponse, HttpResponseBase  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.decorators import sync_and_async_middleware  # noqa: E402

from melange import DomainEventBus  # noqa: E402
from web.shop import OrderPlaced, mailing  # noqa: E402

bus = DomainEventBus.instance()


@sync_and_async_middleware
def domain_events(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    async def handle_async(request: HttpRequest) -> HttpResponseBase:
        with bus.scope(mailing, on_commit=transaction.on_commit):
            response: Awaitable[HttpResponseBase] = get_response(request)
            return await response

    def handle(request: HttpRequest) -> HttpResponseBase:
        with bus.scope(mailing, on_commit=transaction.on_commit):
            response: HttpResponseBase = get_response(request)
            return response

    return handle_async if iscoroutinefunction(get_response) else handle


@transaction.atomic
def write_order(order_id: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS orders (order_id TEXT PRIMARY KEY)")
        cursor.execute("INSERT INTO orders VALUES (%s)", [order_id])
    OrderPlaced(order_id).emit()
    if order_id.startswith("refused"):
        raise ValueError(order_id)


def place_order(_request: HttpRequest, order_id: str) -> HttpResponse:
    write_order(order_id)
    return HttpResponse(order_id)


async def place_order_async(_request: HttpRequest, order_id: str) -> HttpResponse:
    # Django's transactions are for synchronous code; the scope follows into the thread that runs it.
    await sync_to_async(write_order)(order_id)
    return HttpResponse(order_id)


urlpatterns = [
    path("orders/<order_id>", place_order),
    path("async-orders/<order_id>", place_order_async),
]
asgi = get_asgi_application()
wsgi = get_wsgi_application()
