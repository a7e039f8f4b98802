"""FastAPI: one session, transaction and outbox for each request, in ``def`` and ``async def`` endpoints."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from melange.outbox import Outbox, metadata
from web.integration import integration
from web.shop import Base, Order, OrderPlaced, mailing

engine = create_engine(f"sqlite:///{os.environ['DATABASE']}")
async_engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ['DATABASE']}")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    Base.metadata.create_all(engine)
    metadata.create_all(engine)
    yield
    await async_engine.dispose()


app = FastAPI(lifespan=lifespan)


# It is an `async def` so that its scope follows the request: FastAPI runs a `def` dependency in a thread, from
# which no context comes back. What blocks is run in a thread.
async def unit_of_work() -> AsyncIterator[Session]:
    session = Session(engine)
    try:
        with Outbox(session).scope(integration, mailing):
            yield session
            await run_in_threadpool(session.commit)
    finally:
        await run_in_threadpool(session.close)  # rolls back what was not committed


# The scope "function" ends before the response is sent, so that a commit that fails is answered with an error.
UnitOfWork = Annotated[Session, Depends(unit_of_work, scope="function")]


@app.post("/orders/{order_id}")
def place_order(order_id: str, session: UnitOfWork) -> str:
    OrderPlaced(order_id).emit()
    session.add(Order(order_id=order_id))
    if order_id.startswith("refused"):
        raise HTTPException(409)
    return order_id


async def async_unit_of_work() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(async_engine) as session:
        with Outbox(session).scope(integration, mailing):
            yield session
            await session.commit()


@app.post("/async-orders/{order_id}")
async def place_order_async(
    order_id: str, session: Annotated[AsyncSession, Depends(async_unit_of_work, scope="function")]
) -> str:
    OrderPlaced(order_id).emit()
    session.add(Order(order_id=order_id))
    if order_id.startswith("refused"):
        raise HTTPException(409)
    return order_id


# A `def` dependency may give the session; the endpoint then opens the outbox itself.
def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@app.post("/plain-orders/{order_id}")
def place_order_plainly(order_id: str, session: Annotated[Session, Depends(get_session)]) -> str:
    with session.begin(), Outbox(session).scope(integration, mailing):
        OrderPlaced(order_id).emit()
        session.add(Order(order_id=order_id))
    return order_id


# A background task runs when the unit of work of the request is over, so it has one of its own.
def place_order_later(order_id: str) -> None:
    with Session(engine) as session, session.begin(), Outbox(session).scope(integration, mailing):
        OrderPlaced(order_id).emit()
        session.add(Order(order_id=order_id))


@app.post("/later-orders/{order_id}")
def accept_order(order_id: str, tasks: BackgroundTasks) -> str:
    tasks.add_task(place_order_later, order_id)
    return order_id


# Without a unit of work the event would be lost: `emit` raises a ConfigurationError.
@app.post("/forgotten-orders/{order_id}")
def forget_the_outbox(order_id: str) -> str:
    OrderPlaced(order_id).emit()
    return order_id
