"""What is written in a transaction leaves if and only if that is committed."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from melange import EventMessage
from melange.errors import (
    ConfigurationError,
    EncodeError,
    InvalidMessageError,
    InvalidNameError,
    MessageTooLargeError,
)
from melange.outbox import Outbox, OutboxMessage, OutboxRelay
from outbox_behaviours.databases import named, say_begin

EVENT = {"event_type_name": "OrderPlaced", "order_id": 1}


@dataclass
class Priced(EventMessage):
    price: float


REFUSED = {
    "an object that JSON has no form for": (EncodeError, {"event": {**EVENT, "at": object()}}),
    "NaN": (EncodeError, {"event": {**EVENT, "price": math.nan}}),
    "half a character": (EncodeError, {"event": {**EVENT, "name": "\ud800"}}),
    "a typed event with NaN": (EncodeError, {"event": Priced(math.nan)}),
    "a typed event with a field of another type": (EncodeError, {"event": Priced("no number")}),
    "an event without a type": (EncodeError, {"event": {"no": "type"}}),
    "a large body": (MessageTooLargeError, {"event": {**EVENT, "x": "x" * 262_144}}),
    "a large header": (MessageTooLargeError, {"headers": {"x": "x" * 262_144}}),
    "a reserved header": (InvalidMessageError, {"headers": {"melange-x": ""}}),
    "a header name of two words": (InvalidMessageError, {"headers": {"a b": "x"}}),
    "a header that is no text": (InvalidMessageError, {"headers": {"a": 1}}),
    "a header with NUL": (InvalidMessageError, {"headers": {"a": "\0"}}),
    "an empty key": (InvalidMessageError, {"key": ""}),
    "a long key": (InvalidMessageError, {"key": "k" * 257}),
    "a key with NUL": (InvalidMessageError, {"key": "a\0b"}),
    "a key with half a character": (InvalidMessageError, {"key": "\ud800"}),
    "a key that is a float": (InvalidMessageError, {"key": 1.5}),
    "a key that is a truth value": (InvalidMessageError, {"key": True}),
    "a key that is bytes": (InvalidMessageError, {"key": b"a"}),
    "a group that is no text": (InvalidMessageError, {"message_group_id": 7}),
    "an empty id": (InvalidMessageError, {"message_id": ""}),
    "a deduplication id where none is": (InvalidMessageError, {"message_deduplication_id": "a"}),
    "no key on FIFO": (InvalidMessageError, {"topic": "orders.fifo"}),
    "a key that is no group on FIFO": (InvalidMessageError, {"topic": "orders.fifo", "key": "two words"}),
    "an empty topic": (InvalidNameError, {"topic": ""}),
    "a long topic": (InvalidNameError, {"topic": "t" * 257}),
    "a topic of two words": (InvalidNameError, {"topic": "back office"}),
    "half an ARN": (InvalidNameError, {"topic": "arn:bogus"}),
    "the ARN of a queue": (InvalidNameError, {"topic": "arn:aws:sqs:eu-west-1:123456789012:orders"}),
    "a topic with a line feed": (InvalidNameError, {"topic": "orders\n"}),
    "a topic with half a character": (InvalidNameError, {"topic": "\ud800"}),
    "a topic that is no text": (InvalidNameError, {"topic": None}),
}


class PublishingBehaviours:
    def test_what_is_committed_leaves(self, database, driver, relay_pending):
        with Session(database.engine) as session:
            outbox = Outbox(session)
            outbox.publish("orders", named("first"))
            session.flush()
            outbox.publish("orders", named("second"))
            session.commit()

        assert relay_pending() == 2
        assert driver.accepted == ["first", "second"]

    @pytest.mark.parametrize("flushed", [False, True])
    @pytest.mark.parametrize("end", [Session.rollback, Session.close], ids=["rollback", "close"])
    def test_what_is_not_committed_never_leaves(self, database, driver, relay_pending, end, flushed):
        with Session(database.engine) as session:
            Outbox(session).publish("orders", named("dropped"))
            if flushed:
                session.flush()
            end(session)
            Outbox(session).publish("orders", named("kept"))
            session.commit()

        assert relay_pending() == 1
        assert driver.accepted == ["kept"]

    def test_a_block_that_raises_leaves_nothing(self, database):
        with (
            contextlib.suppress(LookupError),
            Session(database.engine) as session,
            session.begin(),
            Outbox(session) as outbox,
        ):
            outbox.publish("orders", EVENT)
            session.flush()
            raise LookupError

        assert database.states == []

    def test_savepoints_keep_what_they_release_and_drop_what_they_roll_back(
        self, database, driver, relay_pending
    ):
        with Session(database.engine) as session, session.begin():
            outbox = Outbox(session)
            outbox.publish("orders", named("before"))
            with session.begin_nested():
                outbox.publish("orders", named("released"))
            savepoint = session.begin_nested()
            outbox.publish("orders", named("rolled back"))
            with session.begin_nested():
                outbox.publish("orders", named("released into it"))
            savepoint.rollback()
            outbox.publish("orders", named("after"))

        relay_pending()

        assert driver.accepted == ["before", "released", "after"]

    def test_several_outboxes_of_a_session_write_in_one_order(self, database):
        with Session(database.engine) as session, session.begin():
            outboxes = [Outbox(session), Outbox(session, notify=False), Outbox(session)]
            ids = [outboxes[number % 3].publish("orders", EVENT, key="a") for number in range(9)]

        assert database.column("message_id") == ids

    def test_a_scoped_session_is_the_one_of_this_moment(self, database):
        registry = scoped_session(sessionmaker(database.engine))
        kept = Outbox(registry).publish("orders", EVENT)
        registry.commit()
        registry.remove()
        Outbox(registry).publish("orders", EVENT)
        registry.remove()

        assert database.column("message_id") == [kept]

    def test_with_autocommit_what_is_flushed_is_there_as_with_everything_else(self, database):
        engine = create_engine(database.engine.url, isolation_level="AUTOCOMMIT")
        with Session(engine) as session:
            Outbox(session).publish("orders", EVENT)
            session.flush()
            session.rollback()
        engine.dispose()

        assert database.states == ["pending"]

    def test_an_engine_of_serializable_transactions_serves_outbox_and_relay(self, database, driver):
        engine = create_engine(database.engine.url, isolation_level="SERIALIZABLE")
        with Session(engine) as session, session.begin():
            Outbox(session).publish("orders", named("first"))
        sent = OutboxRelay(engine, driver).relay_pending()
        engine.dispose()

        assert (sent, driver.accepted) == (1, ["first"])

    def test_ids_ascend_in_the_order_of_publishing_however_many_are_flushed_at_once(self, database):
        with Session(database.engine) as session, session.begin():
            outbox = Outbox(session)
            ids = [
                outbox.publish(
                    "orders" if number % 3 else "invoices",
                    EVENT,
                    key=None if number % 5 == 0 else number % 7,
                    headers={"number": str(number)} if number % 2 else None,
                )
                for number in range(2_100)
            ]

        assert database.column("message_id") == ids

    def test_ids_ascend_over_several_flushes_and_transactions(self, database):
        ids = []
        for _ in range(3):
            with Session(database.engine) as session, session.begin():
                outbox = Outbox(session)
                for _ in range(3):
                    ids += [outbox.publish("orders", EVENT, key="a") for _ in range(20)]
                    session.flush()

        assert database.column("message_id") == ids

    def test_what_was_published_arrives_as_it_was(self, database, driver, relay_pending):
        with Session(database.engine) as session, session.begin():
            outbox = Outbox(session)
            outbox.publish(
                "orders.fifo",
                {"event_type_name": "Ünïcode 🛒", "name": "\u0000 and 🛒"},
                headers={"trace": "ä 🛒", "Empty-not": "x"},
                message_id="my-id",
                message_group_id="group",
                message_deduplication_id="once",
                key="aggregate 🛒",
            )
            written = session.new.copy().pop()
            published_at = written.published_at

        relay_pending()

        [message] = driver.messages
        assert message.message_id == "my-id"
        assert message.event_type_name == "Ünïcode 🛒"
        assert dict(message.headers) == {"trace": "ä 🛒", "Empty-not": "x"}
        assert message.published_at == published_at
        assert message.published_at.utcoffset().total_seconds() == 0
        assert (message.message_group_id, message.message_deduplication_id) == ("group", "once")
        assert database.column("key") == ["aggregate 🛒"]

    def test_on_a_fifo_topic_the_key_is_the_group_and_the_message_id_deduplicates(self, database):
        with Session(database.engine) as session, session.begin():
            outbox = Outbox(session)
            by_key = outbox.publish("orders.fifo", EVENT, key="a")
            by_group = outbox.publish("orders.fifo", EVENT, message_group_id="b")

        assert database.column("key") == ["a", "b"]
        assert database.column("message_group_id") == ["a", "b"]
        assert database.column("message_deduplication_id") == [by_key, by_group]

    @pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
    def test_what_no_broker_takes_is_refused_at_once_and_the_transaction_goes_on(self, database, refused):
        error, arguments = refused
        with Session(database.engine) as session, session.begin():
            outbox = Outbox(session)
            before = outbox.publish("orders", EVENT)
            with pytest.raises(error):
                outbox.publish(**{"topic": "orders", "event": EVENT, **arguments})
            after = outbox.publish("orders", EVENT)

        assert database.column("message_id") == [before, after]

    def test_the_largest_of_everything_is_written(self, database):
        with Session(database.engine) as session, session.begin():
            Outbox(session).publish(
                "t" * 256,
                {"x": "x"},
                "T" * 256,
                key="🛒" * 256,
                message_id="i" * 128,
                message_group_id="g" * 128,
                headers={"h" * 256: "ä" * 100_000},
            )

        assert database.column("key") == ["🛒" * 256]

    def test_a_session_that_knows_no_database_for_it_is_refused_with_what_to_do(self, database):
        with Session() as session, pytest.raises(ConfigurationError, match="OutboxMessage to its binds="):
            Outbox(session)
        with Session(binds={OutboxMessage: database.engine}) as session, session.begin():
            Outbox(session).publish("orders", EVENT)

        assert database.states == ["pending"]

    def test_a_session_that_does_not_flush_by_itself_writes_at_the_commit(self, database):
        with Session(database.engine, autoflush=False) as session, session.begin():
            Outbox(session).publish("orders", EVENT)

        assert database.states == ["pending"]


class AsyncPublishingBehaviours:
    """The same with ``AsyncSession``; the class of each database has ``async_drivers``."""

    def test_commits_rollbacks_and_savepoints(self, database, async_driver, driver, relay_pending):
        async def work(session: AsyncSession) -> None:
            outbox = Outbox(session)
            async with session.begin():
                outbox.publish("orders", named("first"))
                async with session.begin_nested():
                    outbox.publish("orders", named("released"))
                savepoint = await session.begin_nested()
                outbox.publish("orders", named("rolled back"))
                await session.flush()
                await savepoint.rollback()
            outbox.publish("orders", named("dropped"))
            await session.flush()
            await session.rollback()
            outbox.publish("orders", named("last"))
            await session.commit()
            outbox.publish("orders", named("never committed"))
            await session.flush()

        in_async_session(database, async_driver, work)
        relay_pending()

        assert driver.accepted == ["first", "released", "last"]

    def test_ids_ascend_however_many_are_flushed_at_once(self, database, async_driver):
        ids = []

        async def work(session: AsyncSession) -> None:
            async with session.begin():
                outbox = Outbox(session)
                ids.extend(outbox.publish("orders", EVENT, key=number % 3) for number in range(2_100))

        in_async_session(database, async_driver, work)

        assert database.column("message_id") == ids

    def test_a_scoped_session(self, database, async_driver):
        async def work(session: AsyncSession) -> None:
            registry = async_scoped_session(async_sessionmaker(session.bind), asyncio.current_task)
            Outbox(registry).publish("orders", EVENT)
            await registry.commit()
            Outbox(registry).publish("orders", EVENT)
            await registry.remove()

        in_async_session(database, async_driver, work)

        assert database.states == ["pending"]

    def test_what_arrives_is_what_was_written(self, database, async_driver, driver, relay_pending):
        written = []

        async def work(session: AsyncSession) -> None:
            async with session.begin():
                Outbox(session).publish("orders", named("🛒"), headers={"a": "ä"}, key=2**40)
                written.extend(session.new)
                written.append(written[0].published_at)

        in_async_session(database, async_driver, work)
        relay_pending()

        [message] = driver.messages
        assert (driver.accepted, dict(message.headers)) == (["🛒"], {"a": "ä"})
        assert message.published_at == written[1]


def in_async_session(database, async_driver: str, work: Callable) -> None:
    async def main() -> None:
        engine = create_async_engine(database.async_url(async_driver))
        if async_driver.startswith("sqlite"):
            say_begin(engine.sync_engine)
        async with AsyncSession(engine) as session:
            await work(session)
        await engine.dispose()

    asyncio.run(main())
