"""Litestar with a worker in its process."""

from __future__ import annotations

from litestar import Litestar, post

from web import messaging


@post("/orders/{order_id:str}", status_code=200)
async def place_order(order_id: str) -> str:
    return await messaging.place_order(order_id)


app = Litestar(route_handlers=[place_order], lifespan=[messaging.messaging])
