"""The order service's own database."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import sessionmaker

from shop.orders.tables import metadata
from shop.sqlite import open_sqlite

new_session = sessionmaker()


def open_orders(directory: Path) -> Engine:
    """Bind the sessions of this process to the database in this directory. Create it if it does not exist."""
    engine = open_sqlite(directory / "orders.db", metadata)
    new_session.configure(bind=engine)
    return engine
