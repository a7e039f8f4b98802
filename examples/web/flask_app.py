"""Flask: one session, transaction and outbox for each request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask, abort
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from melange.outbox import Outbox, metadata
from web.integration import integration
from web.shop import Base, Order, OrderPlaced, mailing

engine = create_engine(f"sqlite:///{os.environ['DATABASE']}")
Base.metadata.create_all(engine)
metadata.create_all(engine)

app = Flask(__name__)


@contextmanager
def unit_of_work() -> Iterator[Session]:
    with Session(engine) as session, session.begin(), Outbox(session).scope(integration, mailing):
        yield session


@app.post("/orders/<order_id>")
def place_order(order_id: str) -> str:
    with unit_of_work() as session:
        OrderPlaced(order_id).emit()
        session.add(Order(order_id=order_id))
        if order_id.startswith("refused"):
            abort(409)
    return order_id


@app.post("/forgotten-orders/<order_id>")
def forget_the_outbox(order_id: str) -> str:
    OrderPlaced(order_id).emit()
    return order_id
