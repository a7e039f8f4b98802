"""An outbox in a file, for the command to work on."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg  # noqa: F401 - and the next: what a command imports late must outlast the test, as in any process
import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session

import melange.cli.outbox.administration  # noqa: F401
from melange.outbox import OutboxMessage, metadata
from melange.outbox.tables import MessageState


@pytest.fixture
def engine(tmp_path, monkeypatch) -> Iterator[Engine]:
    """Make a database with an outbox, which DATABASE_URL names."""
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    monkeypatch.setenv("DATABASE_URL", url)
    engine = create_engine(url)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def add(engine) -> Callable[..., int]:
    """Write a message into the outbox, as it came to be; return its id."""

    def add_message(
        topic: str = "orders", *, state: MessageState = MessageState.PENDING, seconds: float = 0, **columns
    ) -> int:
        at = datetime.now(UTC) - timedelta(seconds=seconds)
        done_at = at if state in {MessageState.SENT, MessageState.SKIPPED} else None
        values = {
            "topic": topic,
            "lock_key": 1,
            "message_id": "m-1",
            "event_type_name": "OrderPlaced",
            "body": '{"order_id": 17, "card": "never to be shown"}',
            "published_at": at,
            "state": state,
            "done_at": done_at,
        }
        with Session(engine) as session, session.begin():
            message = OutboxMessage(**values | columns)
            session.add(message)
            session.flush()
            return message.id

    return add_message


@pytest.fixture
def states(engine) -> Callable[[], dict[int, str]]:
    """Return the state of each message by its id."""

    def read() -> dict[int, str]:
        with Session(engine) as session:
            return dict(session.execute(select(OutboxMessage.id, OutboxMessage.state)).all())

    return read
