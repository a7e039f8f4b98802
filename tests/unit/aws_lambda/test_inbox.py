"""The inbox in a function: what a listener wrote, and its mark, in one transaction."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert, select
from sqlalchemy.orm import Session, sessionmaker

from melange import ExchangeMessageConsumer
from melange.aws_lambda import handler
from melange.drivers.memory import InMemoryDriver
from melange.outbox import Inbox, Outbox, OutboxMessage, metadata
from unit.aws_lambda import documented

tables = MetaData()
packed = Table("packed", tables, Column("number", Integer))


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    metadata.create_all(engine)
    tables.create_all(engine)
    yield engine
    engine.dispose()


def test_a_record_that_comes_twice_has_one_effect_and_a_failed_one_has_none(engine) -> None:
    event = documented.with_body(
        documented.STANDARD_QUEUE,
        {"event_type_name": "OrderPlaced", "number": 1},
        {"event_type_name": "OrderPlaced", "number": 2},
    )

    def cold_start():
        """Return the handler of another process: only the database is the same."""
        consumer = ExchangeMessageConsumer(
            "my-queue", driver=driver, deduplication=Inbox(sessionmaker(engine))
        )

        @consumer.listener("OrderPlaced", name="pack")
        def pack(event, session: Session):
            session.execute(insert(packed).values(number=event["number"]))
            Outbox(session).publish("packed", {"event_type_name": "OrderPacked"})
            if event["number"] == 2:
                raise ConnectionError

        return handler(consumer)

    driver = InMemoryDriver()

    answers = [cold_start()(event) for _ in range(2)]

    failed = {"batchItemFailures": [{"itemIdentifier": event["Records"][1]["messageId"]}]}
    assert answers == [failed, failed]
    with Session(engine) as session:
        assert session.scalars(select(packed.c.number)).all() == [1]
        assert len(session.scalars(select(OutboxMessage)).all()) == 1
