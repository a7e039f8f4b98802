"""Negative controls: ways out, relays and listeners as one would write them without knowing better."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Engine, insert, select, update
from sqlalchemy.orm import Session

from chaos.journal import Journal
from chaos.journaling import JournalingDriver
from chaos.outbox.settings import OutboxSettings
from chaos.outbox.tables import Effect
from chaos.outbox.ways_out import WayOut
from melange import ExchangeMessagePublisher
from melange.messages import Message, Topic
from melange.outbox import OutboxMessage
from melange.outbox.tables import MessageState


class PublishThenCommit(WayOut):
    """Tells the world what may never be."""

    def __init__(self, settings: OutboxSettings, journal: Journal) -> None:
        super().__init__(settings, journal)
        driver = JournalingDriver(journal, settings.endpoint_url)
        self._publisher = ExchangeMessagePublisher(settings.topic, driver)

    def publish(self, session: Session, event: dict[str, Any], key: str) -> str:
        return self._publisher.publish(event, message_group_id=key)


class CommitThenPublish(PublishThenCommit):
    """May die with what it has to tell."""

    def __init__(self, settings: OutboxSettings, journal: Journal) -> None:
        super().__init__(settings, journal)
        self._committing: list[tuple[dict[str, Any], str, str]] = []

    def publish(self, session: Session, event: dict[str, Any], key: str) -> str:
        message_id = str(uuid4())
        self._committing.append((event, key, message_id))
        return message_id

    def committed(self) -> None:
        for event, key, message_id in self._committing:
            self._publisher.publish(event, message_id=message_id, message_group_id=key)
        self._committing.clear()

    def forget(self) -> None:
        self._committing.clear()


class NaiveRelay:
    """Publishes pending messages in the order of their rows; which, is for its kind to say."""

    def __init__(self, engine: Engine, driver: JournalingDriver, batch_size: int) -> None:
        self._engine = engine
        self._driver = driver
        self._batch_size = batch_size
        self._topics: dict[str, Topic] = {}

    def relay_batch(self) -> int:
        """Publish some; return how many."""
        with self._engine.begin() as connection:
            rows = self._pending(connection)
            for row in rows:
                self._publish(row)
            connection.execute(
                update(OutboxMessage).where(self._are_done(rows)).values(state=MessageState.SENT)
            )
        return len(rows)

    def _pending(self, connection: Connection) -> list[Any]:
        raise NotImplementedError

    def _are_done(self, rows: list[Any]) -> ColumnElement[bool]:
        return OutboxMessage.id.in_([row.id for row in rows])

    def _publish(self, row: Any) -> None:
        topic = self._topics.setdefault(row.topic, self._driver.declare_topic(row.topic))
        message = Message(
            row.message_id,
            row.body,
            row.event_type_name,
            message_group_id=row.message_group_id,
            message_deduplication_id=row.message_deduplication_id,
        )
        self._driver.publish(topic, [message])


class AboveTheLast(NaiveRelay):
    """Goes on from the highest id that it has seen, and so never sees a lower one that is committed later."""

    _last = 0

    def _pending(self, connection: Connection) -> list[Any]:
        above = select(*OutboxMessage.__table__.columns).where(OutboxMessage.id > self._last)
        rows = list(connection.execute(above.order_by(OutboxMessage.id).limit(self._batch_size)))
        self._last = max((row.id for row in rows), default=self._last)
        return rows

    def _are_done(self, rows: list[Any]) -> ColumnElement[bool]:
        return OutboxMessage.id <= self._last


class SkippingLockedRows(NaiveRelay):
    """Leaves out the rows that another relay has locked, and takes those that come after them."""

    def _pending(self, connection: Connection) -> list[Any]:
        pending = select(*OutboxMessage.__table__.columns).where(OutboxMessage.state == MessageState.PENDING)
        in_order = pending.order_by(OutboxMessage.id).limit(self._batch_size)
        return list(connection.execute(in_order.with_for_update(skip_locked=True)))


def write_effect_apart(session: Session, message_id: str) -> None:
    """Commit the effect by itself, so that the inbox's mark is in another transaction."""
    with session.get_bind().engine.begin() as connection:
        connection.execute(insert(Effect).values(message_id=message_id))


PUBLISH_THEN_COMMIT = "publish, then commit"
COMMIT_THEN_PUBLISH = "commit, then publish"
ABOVE_THE_LAST = "relay: id above the last"
SKIP_LOCKED_ROWS = "relay: locked rows are skipped"
EFFECT_APART = "effect and mark in two transactions"
WAYS_OUT: dict[str, type[WayOut]] = {
    PUBLISH_THEN_COMMIT: PublishThenCommit,
    COMMIT_THEN_PUBLISH: CommitThenPublish,
}
RELAYS: dict[str, type[NaiveRelay]] = {
    ABOVE_THE_LAST: AboveTheLast,
    SKIP_LOCKED_ROWS: SkippingLockedRows,
}
