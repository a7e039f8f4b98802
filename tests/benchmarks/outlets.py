"""Ways for events to leave a database: melange's outbox, and the bare statements of any outbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from sqlalchemy import Engine, bindparam, create_engine, delete, func, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks import events
from benchmarks.measuring import Cost, cost_per_item
from melange.drivers.memory import InMemoryDriver
from melange.outbox import Outbox, OutboxMessage, OutboxRelay, metadata

EVENTS = 1_000
BATCH = 100
"""As many as OutboxRelay takes at once by default."""

TABLE = metadata.tables["melange_outbox"]


class Base(DeclarativeBase):
    """The application's own tables."""


class Order(Base):
    """What the application's transaction is about."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[str]


@dataclass(frozen=True, slots=True)
class Outlet:
    """A way to write ``EVENTS`` events, and to send and mark what is pending."""

    write: Callable[[], None]
    relay: Callable[[], None]
    tidy: Callable[[], None]
    """Leaves the table as it was before."""

    def measure_both(self) -> Cost:
        """Measure writing, then relaying."""
        with cost_per_item(EVENTS) as cost:
            self.write()
            self.relay()
        self.tidy()
        return cost

    def measure_writing(self) -> Cost:
        """Measure writing; nothing of it is relayed."""
        with cost_per_item(EVENTS) as cost:
            self.write()
        self.tidy()
        return cost

    def measure_relaying(self) -> Cost:
        """Measure relaying what was written before."""
        self.write()
        with cost_per_item(EVENTS) as cost:
            self.relay()
        self.tidy()
        return cost


@contextmanager
def sqlite(*, journal: str = "DELETE", sent: int = 0) -> Iterator[Engine]:
    """Yield a database in a file of its own, with so many sent messages; it syncs as SQLite does by default."""
    with TemporaryDirectory() as directory:
        engine = create_engine(f"sqlite:///{Path(directory) / 'shop.db'}")
        with engine.connect() as connection:
            connection.execute(text(f"PRAGMA journal_mode = {journal}"))
        create_tables(engine, sent)
        try:
            yield engine
        finally:
            engine.dispose()


def create_tables(engine: Engine, sent: int) -> None:
    """Create the outbox, with so many sent messages, and the application's own table."""
    metadata.create_all(engine)
    Base.metadata.create_all(engine)
    columns = [column for column in TABLE.columns if column.name != "id"]
    with engine.begin() as connection:
        there = min(sent, BATCH)
        if there:
            connection.execute(insert(TABLE), [_values() | _as_sent() for _ in range(there)])
        while there < sent:
            copies = select(*columns).limit(sent - there)
            there += connection.execute(insert(TABLE).from_select(columns, copies)).rowcount


def outbox(engine: Engine, per_transaction: int = 10, *, notify: bool = True) -> Outlet:
    """Return melange's outbox, relayed to the in-memory driver; what a transaction publishes has one key."""

    def write() -> None:
        for number in range(0, EVENTS, per_transaction):
            with Session(engine) as session, session.begin():
                outbox = Outbox(session, notify=notify)
                for _ in range(per_transaction):
                    outbox.publish("orders", events.ORDER, key=number)

    def relay() -> None:
        sent = OutboxRelay(engine, InMemoryDriver(), batch_size=BATCH).relay_pending()
        assert sent == EVENTS

    return Outlet(write, relay, _tidying(engine))


def bare_statements(engine: Engine, per_transaction: int = 10) -> Outlet:
    """Return what nobody who keeps an outbox can do without: JSON, a row in, a row out, a row marked."""
    pending = (
        select(TABLE.c.id, TABLE.c.body).where(text("state = 'pending'")).order_by(TABLE.c.id).limit(BATCH)
    )
    mark = update(TABLE).where(TABLE.c.id.in_(bindparam("ids", expanding=True)))

    def write() -> None:
        for _ in range(0, EVENTS, per_transaction):
            with engine.begin() as connection:
                connection.execute(insert(TABLE), [_values() for _ in range(per_transaction)])

    def relay() -> None:
        while True:
            with engine.begin() as connection:
                found = connection.execute(pending).all()
                if not found:
                    return
                connection.execute(mark.values(_as_sent()), {"ids": [row.id for row in found]})

    return Outlet(write, relay, _tidying(engine))


def _values() -> dict[str, object]:
    return {
        "topic": "orders",
        "lock_key": 0,
        "message_id": str(uuid4()),
        "event_type_name": "OrderPlaced",
        "body": json.dumps(events.ORDER),
        "published_at": datetime.now(UTC),
    }


def _as_sent() -> dict[str, object]:
    return {"state": "sent", "done_at": datetime.now(UTC)}


def _tidying(engine: Engine) -> Callable[[], None]:
    with engine.connect() as connection:
        last_id = connection.execute(select(func.coalesce(func.max(TABLE.c.id), 0))).scalar_one()

    def tidy() -> None:
        with engine.begin() as connection:
            connection.execute(delete(OutboxMessage).where(TABLE.c.id > last_id))

    return tidy
