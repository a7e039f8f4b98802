"""Databases with a table that listeners write to, and consumers whose inbox is there."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, String, create_engine, event, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import QueuePool

from consumer_options import grouped
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, Worker
from melange.deduplication import DeduplicationKey
from melange.drivers.memory import InMemoryDriver
from melange.outbox import Inbox, InboxAttempts, InboxMark, metadata

DEADLINE_SECONDS = 30


class Base(DeclarativeBase):
    pass


class Effect(Base):
    """What a listener has done."""

    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(100))


class Database:
    """A database, looked at from outside of the listeners' sessions."""

    def __init__(self, engine: Engine, url: str, schema: str | None) -> None:
        self.engine = engine
        self.url = url
        self.schema = schema
        self.sessions = sessionmaker(engine)

    def effects(self) -> list[str]:
        with Session(self.engine) as session:
            return list(session.scalars(select(Effect.text).order_by(Effect.text)))

    def marks(self) -> int:
        with Session(self.engine) as session:
            return session.scalar(select(func.count()).select_from(InboxMark)) or 0

    def attempts(self) -> list[int]:
        with Session(self.engine) as session:
            return list(session.scalars(select(InboxAttempts.attempts)))

    def create_tables(self) -> None:
        metadata.create_all(self.engine)
        Base.metadata.create_all(self.engine)


def _sqlite_database(directory: Path) -> Iterator[Database]:
    url = f"sqlite:///{directory}/shop.db"
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def check_foreign_keys(connection, record):
        connection.execute("PRAGMA foreign_keys = ON")

    yield from _with_tables(Database(engine, url, None))


def _postgres_database(url: str) -> Iterator[Database]:
    """Yield a schema of the test's own."""
    schema = f"inbox_{uuid.uuid4().hex}"
    administration = create_engine(url, isolation_level="AUTOCOMMIT")
    with administration.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
        engine = create_engine(url, connect_args={"options": f"-csearch_path={schema}"})
        yield from _with_tables(Database(engine, url, schema))
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    administration.dispose()


def _with_tables(database: Database) -> Iterator[Database]:
    database.create_tables()
    yield database
    assert isinstance(database.engine.pool, QueuePool)
    assert database.engine.pool.checkedout() == 0, "a connection was not given back"
    database.engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    """Return a database; in the end all its connections must be back."""
    return request.getfixturevalue(f"{request.param}_database")


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    yield from _sqlite_database(tmp_path)


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[Database]:
    yield from _postgres_database(postgres_url)


@pytest.fixture
def inbox(database: Database) -> Inbox:
    return Inbox(database.sessions)


@pytest.fixture
def key() -> DeduplicationKey:
    return DeduplicationKey("stock", "listener", str(uuid.uuid4()), ("content",))


@pytest.fixture
def driver() -> Iterator[InMemoryDriver]:
    with InMemoryDriver() as driver:
        yield driver


@pytest.fixture
def publisher(driver: InMemoryDriver) -> ExchangeMessagePublisher:
    return ExchangeMessagePublisher("products", driver)


@pytest.fixture
def make_consumer(driver: InMemoryDriver) -> Callable[..., ExchangeMessageConsumer]:
    """Build consumers of the queue ``stock`` that neither wait nor rest between attempts."""

    def make(inbox: Inbox, **options: object) -> ExchangeMessageConsumer:
        options = {"wait_seconds": 0, "backoff": lambda attempts: 0.01, **options}
        return ExchangeMessageConsumer(
            "stock", "products", driver=driver, **grouped(deduplication=inbox, **options)
        )

    return make


@pytest.fixture
def running() -> Iterator[Callable[..., Worker]]:
    """Start workers, and stop them at the end."""
    workers: list[Worker] = []

    def start(*consumers: ExchangeMessageConsumer, **options: int) -> Worker:
        worker = Worker(*consumers, handle_signals=False, grace_seconds=10, **options)
        worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        assert worker.stop(DEADLINE_SECONDS)


@pytest.fixture
def left_in(driver: InMemoryDriver) -> Callable[..., int]:
    """Return how many messages are in a queue, in flight or not."""

    def count(queue_name: str = "stock") -> int:
        depth = driver.measure_queue(driver.get_queue(queue_name))
        return depth.visible + depth.in_flight + depth.delayed

    return count


@pytest.fixture
def effect() -> type[Effect]:
    """Return the table of effects, for listeners to add to."""
    return Effect
