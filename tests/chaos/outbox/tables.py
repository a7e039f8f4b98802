"""What the writers and the consumers keep: the truth that the checker goes by."""

from __future__ import annotations

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from melange.outbox import metadata

BUSY_SECONDS = 60
"""How long a process waits for others that write to the same SQLite database."""


class Base(DeclarativeBase):
    """The tables of these runs."""


class Aggregate(Base):
    """What transactions change: ``number`` is that of its last event."""

    __tablename__ = "aggregates"

    key: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]


class Written(Base):
    """An event, by the transaction that published it: it is there if and only if that was committed."""

    __tablename__ = "written"

    message_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str]
    number: Mapped[int]


class Effect(Base):
    """What a listener did. There may be two for one message, so that it can be seen."""

    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[str]


def engine_for(url: str, connections: int = 5) -> Engine:
    """Return an engine for a database of a run, SQLite or PostgreSQL."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=connections, pool_pre_ping=True)
    engine = create_engine(url, pool_size=connections, connect_args={"timeout": BUSY_SECONDS})
    # What is killed is a process, not the machine: nothing has to be on the disk.
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    return engine


def prepare(url: str, keys: int) -> None:
    """Make the tables, and so many aggregates, in an empty database."""
    engine = engine_for(url)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    Base.metadata.create_all(engine)
    metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(Aggregate(key=f"key-{number}", number=0) for number in range(keys))
    engine.dispose()
