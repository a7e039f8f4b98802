"""The warehouse's own database."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from shop.sqlite import open_sqlite

new_session = sessionmaker()


class Base(DeclarativeBase):
    pass


class Shelf(Base):
    __tablename__ = "shelves"

    sku: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    quantity: Mapped[int]


def open_warehouse(directory: Path) -> Engine:
    """Bind the sessions of this process to the database in this directory. Create it if it does not exist."""
    engine = open_sqlite(directory / "warehouse.db", Base.metadata)
    new_session.configure(bind=engine)
    return engine
