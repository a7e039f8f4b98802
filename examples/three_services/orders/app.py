"""The application: endpoints, worker and relay in one process. ``uvicorn --factory three_services.orders.app:make_app``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from uuid import uuid4

from fastapi import FastAPI, HTTPException
from sqlalchemy.ext.asyncio import async_sessionmaker

from melange import DriverManager, Worker
from melange.outbox import Outbox, OutboxRelay
from three_services.orders.consumers import make_consumer
from three_services.orders.database import Order, open_database
from three_services.orders.events import OrderPlaced


def make_app() -> FastAPI:
    async_engine, engine = open_database(os.environ.get("ORDERS_DATABASE", "orders.db"))
    new_session = async_sessionmaker(async_engine, expire_on_commit=False)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        DriverManager.instance().use_driver(driver_name="aws")
        # Events wait until a consumer has made their topic: a topic without queues would drop them.
        relay = OutboxRelay(engine, declare=False)
        async with relay.lifespan(), Worker(make_consumer(new_session), grace_seconds=5).lifespan():
            yield
        await async_engine.dispose()
        engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders")
    async def place_order(total: Decimal) -> str:
        order_id = str(uuid4())
        async with new_session() as session, session.begin():
            session.add(Order(order_id=order_id, total=total))
            Outbox(session).publish("orders", OrderPlaced(order_id, total), key=order_id)
        return order_id

    @app.get("/orders/{order_id}")
    async def show_state(order_id: str) -> str:
        async with new_session() as session:
            order = await session.get(Order, order_id)
        if order is None:
            raise HTTPException(404)
        return order.state

    return app
