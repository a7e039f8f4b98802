"""SQLite, such that a transaction is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, create_engine, event

from melange.outbox import metadata as outbox_metadata


def open_sqlite(path: Path, tables: MetaData) -> Engine:
    """Return an engine for a file that has these tables, and those of outbox and inbox."""
    engine = create_engine(f"sqlite:///{path}")

    # Python's driver would begin a transaction with the first write, after what was decided was read.
    @event.listens_for(engine, "connect")
    def begin_nothing_by_itself(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin_as_the_only_writer(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    tables.create_all(engine)
    outbox_metadata.create_all(engine)
    return engine
