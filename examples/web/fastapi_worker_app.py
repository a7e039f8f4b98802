"""FastAPI with a worker in its process."""

from __future__ import annotations

from fastapi import FastAPI

from web import messaging

app = FastAPI(lifespan=messaging.messaging)


@app.post("/orders/{order_id}")
async def place_order(order_id: str) -> str:
    return await messaging.place_order(order_id)
