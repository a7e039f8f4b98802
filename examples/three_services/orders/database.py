"""The database of the service: one engine for endpoints and listeners, and one for the relay."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from melange.outbox import metadata


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    order_id: Mapped[str] = mapped_column(primary_key=True)
    total: Mapped[Decimal]
    state: Mapped[str] = mapped_column(default="placed")


def open_database(path: str) -> tuple[AsyncEngine, Engine]:
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    metadata.create_all(engine)  # of outbox and inbox
    return create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 30}), engine
