"""The views: a transaction around what is written together."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from orders.models import Order


@transaction.atomic
def write_order(order_id: str) -> None:
    Order.place(order_id)
    if order_id.startswith("refused"):
        raise ValueError(order_id)


def place_order(_request: HttpRequest, order_id: str) -> HttpResponse:
    write_order(order_id)
    return HttpResponse(order_id)


async def place_order_async(_request: HttpRequest, order_id: str) -> HttpResponse:
    # Django's transactions are for synchronous code; the scope follows into the thread that runs it.
    await sync_to_async(write_order)(order_id)
    return HttpResponse(order_id)


def forget_the_transaction(_request: HttpRequest, order_id: str) -> HttpResponse:
    Order.place(order_id)  # outside of a transaction: the outbox refuses the event
    return HttpResponse(order_id)
