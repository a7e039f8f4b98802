"""FastAPI with a worker in its process."""

from __future__ import annotations

from fastapi import FastAPI

from web import messaging

app = FastAPI(lifespan=messaging.messaging)


@app.post("/orders/{order_id}")
def place_order(order_id: str) -> str:  # a `def` endpoint may block: FastAPI runs it in a thread
    return messaging.place_order(order_id)
