"""The databases that an outbox can be in, each with empty tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url, select
from sqlalchemy.orm import Session

from melange.outbox import Outbox, OutboxMessage, metadata

TOPIC = "orders"


class Database:
    """A database with an empty outbox, and what tests ask of it."""

    def __init__(self, engine: Engine, async_drivers: Sequence[str]) -> None:
        self.engine = engine
        self.async_drivers = async_drivers

    def async_url(self, driver: str) -> Any:
        return self.engine.url.set(drivername=driver)

    def write(self, *names: str, topic: str = TOPIC) -> None:
        """Publish events in one transaction; the first letter of a name is its key, ``-`` is none."""
        with Session(self.engine) as session, session.begin():
            outbox = Outbox(session)
            for name in names:
                outbox.publish(topic, named(name), key=None if name[0] == "-" else name[0])

    def column(self, name: str) -> list[Any]:
        """Return what all rows have in a column, in the order of their ids."""
        with Session(self.engine) as session:
            return list(session.scalars(select(getattr(OutboxMessage, name)).order_by(OutboxMessage.id)))

    @property
    def states(self) -> list[str]:
        return self.column("state")

    def ids_of(self, state: str) -> list[int]:
        with Session(self.engine) as session:
            query = select(OutboxMessage.id).where(OutboxMessage.state == state).order_by(OutboxMessage.id)
            return list(session.scalars(query))


def named(name: str) -> dict[str, object]:
    """Return an event that a ``JudgingDriver`` knows by its name."""
    return {"event_type_name": "Named", "name": name}


def say_begin(engine: Engine) -> None:
    """Let SQLAlchemy begin SQLite's transactions: sqlite3 does it too late for savepoints."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous = OFF")  # no test ends the machine

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


def sqlite_database(directory: Path) -> Iterator[Database]:
    """Yield one in a file, whose connections are all back in the end."""
    engine = create_engine(f"sqlite:///{directory}/shop.db")
    say_begin(engine)
    yield from _with_tables(Database(engine, ["sqlite+aiosqlite"]))


def postgres_database(url: str) -> Iterator[Database]:
    """Yield the one at ``url``, whose connections are all back in the end."""
    engine = create_engine(make_url(url))
    metadata.drop_all(engine)
    yield from _with_tables(Database(engine, ["postgresql+psycopg", "postgresql+asyncpg"]))
    engine.dispose()


def _with_tables(database: Database) -> Iterator[Database]:
    metadata.create_all(database.engine)
    yield database
    assert database.engine.pool.checkedout() == 0, "a connection was not given back"  # type: ignore[attr-defined]
    database.engine.dispose()
