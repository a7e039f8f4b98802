"""The order service's own database."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import sessionmaker

from shop.orders.tables import metadata
from shop.sqlite import open_sqlite

new_session = sessionmaker()


def open_orders(directory: Path) -> Engine:
    """Have the sessions of this process work on the database in this directory, which is made if need be."""
    engine = open_sqlite(directory / "orders.db", metadata)
    new_session.configure(bind=engine)
    return engine
