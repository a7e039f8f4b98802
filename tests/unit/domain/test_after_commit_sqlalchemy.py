"""``after_commit`` on SQLAlchemy sessions over SQLite, with savepoints, and without and with asyncio."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import NullPool, StaticPool, create_engine, event, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from melange import DomainEventBus
from melange.domain.sqlalchemy import on_commit


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "products"
    product_id: Mapped[int] = mapped_column(primary_key=True)


def without_the_drivers_own_begin(engine) -> None:
    """Let SQLAlchemy say BEGIN: sqlite3 does it too late for savepoints."""

    @event.listens_for(engine, "connect")
    def connect(connection, record):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")


@pytest.fixture
def engine() -> Iterator[object]:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    without_the_drivers_own_begin(engine)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@pytest.fixture
def publish(bus, session, seen) -> Iterator[Callable[[object], None]]:
    """Publish to a handler that waits for the session's commit and then appends to ``seen``."""
    bus.on(str)(bus.after_commit(seen.append))
    with bus.scope(on_commit=on_commit(session)):
        yield bus.publish


def add(session: Session, product_id: int) -> None:
    session.add(Product(product_id=product_id))
    session.flush()


def products(session: Session) -> list[int]:
    return list(session.scalars(select(Product.product_id).order_by(Product.product_id)))


def test_a_handler_runs_after_the_commit_in_order(session, publish, seen) -> None:
    add(session, 1)
    publish("first")
    publish("second")
    before = list(seen)

    session.commit()

    assert (before, seen) == ([], ["first", "second"])


@pytest.mark.parametrize("end", [Session.rollback, Session.close], ids=["rollback", "close"])
def test_it_never_runs_if_the_transaction_is_rolled_back(session, publish, seen, end) -> None:
    add(session, 1)
    publish("dropped")

    end(session)
    add(session, 2)
    session.commit()

    assert seen == []


def test_it_runs_at_once_where_there_is_no_transaction(session, publish, seen) -> None:
    publish("at once")

    assert seen == ["at once"]


def test_what_was_added_and_not_flushed_is_a_transaction_already(session, publish, seen) -> None:
    session.add(Product(product_id=1))
    publish("waits")
    before = list(seen)

    session.commit()

    assert (before, seen) == ([], ["waits"])


def test_it_does_not_run_when_a_savepoint_is_released(session, publish, seen) -> None:
    with session.begin_nested():
        add(session, 1)
        publish("in the savepoint")
    before = list(seen)

    session.commit()

    assert (before, seen) == ([], ["in the savepoint"])


def test_a_savepoint_that_is_rolled_back_takes_its_own_along(session, publish, seen) -> None:
    publish_in_savepoints(session, publish)

    session.commit()

    assert seen == ["released", "after"]
    assert products(session) == [1, 4]


def publish_in_savepoints(session: Session, publish: Callable[[object], None]) -> None:
    with session.begin_nested():
        add(session, 1)
        publish("released")
    outer = session.begin_nested()
    add(session, 2)
    publish("rolled back")
    with session.begin_nested():
        add(session, 3)
        publish("released into one that is rolled back")
    outer.rollback()
    add(session, 4)
    publish("after")


def test_released_savepoints_are_dropped_with_the_outermost_transaction(session, publish, seen) -> None:
    publish_in_savepoints(session, publish)

    session.rollback()

    assert seen == []


def test_a_commit_releases_open_savepoints(session, publish, seen) -> None:
    session.begin_nested()
    add(session, 1)
    session.begin_nested()
    add(session, 2)
    publish("deep inside")

    session.commit()

    assert seen == ["deep inside"]


def test_an_event_that_a_flush_raises_waits_too(session, publish, seen) -> None:
    @event.listens_for(session, "after_flush")
    def raise_event(session, context):
        publish("in the flush")

    with session.begin_nested():
        session.add(Product(product_id=1))
    before = list(seen)
    session.commit()

    assert (before, seen) == ([], ["in the flush"])


def test_the_session_is_free_for_a_next_transaction(bus, session, publish, seen) -> None:
    @bus.on(str)
    @bus.after_commit
    def count(event):
        seen.append(products(session))
        if len(seen) < 4:
            add(session, 2)
            bus.publish("once more")
            session.commit()

    add(session, 1)
    bus.publish("first")

    session.commit()

    assert seen == ["first", [1], "once more", [1, 2]]


def test_a_failed_commit_drops_them_and_the_next_is_clean(session, publish, seen) -> None:
    add(session, 1)
    session.commit()
    session.add(Product(product_id=1))
    publish("dropped")

    with pytest.raises(Exception, match="UNIQUE"):
        session.commit()
    session.rollback()
    add(session, 2)
    publish("kept")
    session.commit()

    assert seen == ["kept"]


def test_all_run_though_one_fails_and_the_commit_stands(bus, session, publish, seen) -> None:
    @bus.on(int)
    @bus.after_commit
    def fail(event):
        raise LookupError(event)

    add(session, 1)
    bus.publish(1)
    publish("in between")
    bus.publish(2)

    with pytest.raises(
        ExceptionGroup, match="2 handlers failed after the commit, which stays in effect"
    ) as raised:
        session.commit()
    session.rollback()

    assert [error.args for error in raised.value.exceptions] == [(1,), (2,)]
    assert seen == ["in between"]
    assert products(session) == [1]


def test_a_single_error_passes_as_it_is(bus, session, publish, seen) -> None:
    @bus.on(int)
    @bus.after_commit
    def fail(event):
        raise LookupError(event)

    def commit_one():
        with session.begin():
            add(session, 1)
            bus.publish(1)

    with pytest.raises(LookupError):
        commit_one()
    publish("works on")

    assert seen == ["works on"]
    assert products(session) == [1]


def test_sessions_do_not_wait_for_each_other(bus, engine, seen) -> None:
    bus.on(str)(bus.after_commit(seen.append))
    one, other = Session(engine), Session(engine)
    one.begin()
    other.begin()
    with bus.scope(on_commit=on_commit(one)):
        bus.publish("one")

    other.commit()
    before = list(seen)
    one.commit()

    assert (before, seen) == ([], ["one"])


def test_a_scoped_session_is_looked_up_when_an_event_is_published(bus, engine, seen) -> None:
    registry = scoped_session(sessionmaker(engine))
    bus.on(str)(bus.after_commit(seen.append, on_commit=on_commit(registry)))

    for name in ("first", "second"):
        registry.add(Product(product_id=len(name)))
        bus.publish(name)
        assert name not in seen
        registry.commit()
        registry.remove()

    assert seen == ["first", "second"]


def test_a_session_that_was_waited_for_can_be_collected(bus, engine, seen) -> None:
    session = Session(engine)
    bus.on(str)(bus.after_commit(seen.append))
    with bus.scope(on_commit=on_commit(session)), session.begin():
        bus.publish("done")
    session.close()
    alive = weakref.ref(session)

    del session
    gc.collect()

    assert seen == ["done"]
    assert alive() is None


class TestAsyncSession:
    def test_commits_savepoints_and_rollbacks(self, bus, seen) -> None:
        bus.on(str)(bus.after_commit(seen.append))

        async def work(session: AsyncSession):
            with bus.scope(on_commit=on_commit(session)):
                async with session.begin():
                    await session.execute(text("SELECT 1"))
                    bus.publish("committed")
                    async with session.begin_nested():
                        bus.publish("in a savepoint")
                    savepoint = await session.begin_nested()
                    bus.publish("rolled back")
                    await savepoint.rollback()
                    seen.append("end of the block")
                await session.begin()
                await bus.publish_async("dropped")
                await session.rollback()

        with_async_session(work)

        assert seen == ["end of the block", "committed", "in a savepoint"]

    def test_a_scoped_async_session(self, bus, seen) -> None:
        bus.on(str)(bus.after_commit(seen.append))

        async def work(session: AsyncSession):
            registry = async_scoped_session(lambda: session, scopefunc=asyncio.current_task)
            with bus.scope(on_commit=on_commit(registry)):
                await session.begin()
                bus.publish("committed")
                seen.append("before")
                await session.commit()

        with_async_session(work)

        assert seen == ["before", "committed"]

    def test_publishes_that_are_suspended_by_greenlets_do_not_mix_if_each_task_has_its_scope(
        self, bus, seen, tmp_path
    ) -> None:
        """A handler's SQL lets the event loop go on, in the middle of a synchronous publish."""

        async def main():
            engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/database", poolclass=NullPool)
            publishing: set[str] = set()
            together = []

            @bus.on
            def query(event: str) -> None:
                publishing.add(event)
                current[event].execute(text("SELECT 1"))
                together.append(set(publishing))
                publishing.discard(event)
                bus.publish((event, "followed"))

            @bus.on
            def follow(event: tuple) -> None:
                seen.append((event[0], asyncio.current_task().get_name()))

            current: dict[str, Session] = {}

            async def request(name: str):
                with bus.scope():
                    async with AsyncSession(engine) as session:
                        current[name] = session.sync_session
                        for _ in range(20):
                            await session.run_sync(lambda _: bus.publish(name))

            await asyncio.gather(*(asyncio.create_task(request(name), name=name) for name in "abc"))
            await engine.dispose()
            return together

        together = asyncio.run(main())

        assert any(len(names) > 1 for names in together), "no publish was ever suspended"
        assert len(seen) == 60
        assert all(event == task for event, task in seen)


def with_async_session(work) -> None:
    async def main():
        engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
        without_the_drivers_own_begin(engine.sync_engine)
        async with AsyncSession(engine) as session:
            await work(session)
        await engine.dispose()

    asyncio.run(main())


def test_the_shared_bus_is_left_alone() -> None:
    assert DomainEventBus.instance().subscriptions == ()
