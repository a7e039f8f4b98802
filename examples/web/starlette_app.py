"""Starlette with a worker in its process."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from web import messaging


async def place_order(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await messaging.place_order(request.path_params["order_id"]))


app = Starlette(
    routes=[Route("/orders/{order_id}", place_order, methods=["POST"])], lifespan=messaging.messaging
)
