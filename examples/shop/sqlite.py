"""SQLite with real transactions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, create_engine, event

from melange.outbox import metadata as outbox_metadata


def open_sqlite(path: Path, tables: MetaData) -> Engine:
    """Return an engine for a file with these tables and those of outbox and inbox."""
    engine = create_engine(f"sqlite:///{path}")

    # By default Python's driver begins a transaction with the first write, so earlier reads are outside of it.
    @event.listens_for(engine, "connect")
    def disable_implicit_begin(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin_immediate(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    tables.create_all(engine)
    outbox_metadata.create_all(engine)
    return engine
