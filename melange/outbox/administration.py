"""Inspect an outbox, and decide about refused messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Text,
    Update,
    and_,
    cast,
    delete,
    exists,
    false,
    func,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, aliased

from melange.clock import Clock, SystemClock
from melange.errors import OutboxError
from melange.outbox.database_errors import explained
from melange.outbox.locks import locks_for
from melange.outbox.rows import PURGE_BATCH, is_done_before, purge_some
from melange.outbox.tables import (
    DUE_AT_OR_NONE,
    IS_PENDING,
    PUBLISHED_AT_OR_NONE,
    MessageState,
    OutboxMessage,
    OutboxScheduledMessage,
    has_same_key,
    is_failed,
    is_stopped,
)


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """The numbers of pending, failed and held messages of one topic, and the time of the oldest.

    ``oldest_published_at`` is None if none of their times can be read.
    """

    topic: str
    pending: int
    failed: int
    held: int
    oldest_published_at: datetime | None


@dataclass(frozen=True, slots=True)
class FailedMessage:
    """A message that was refused or cannot be read; ``held`` messages of its key wait for the decision about it.

    ``published_at`` is None and texts are empty if the row has no readable value.
    """

    id: int
    topic: str
    key: str | None
    message_id: str
    event_type_name: str
    published_at: datetime | None
    error: str
    held: int


@dataclass(frozen=True, slots=True)
class ScheduledMessage:
    """A message that is due later; ``due_at`` is None if the row has no readable time."""

    id: int
    topic: str
    key: str | None
    message_id: str
    event_type_name: str
    due_at: datetime | None


Which: TypeAlias = int | str | FailedMessage
"""A failed message, by the id of its row, by its message id, or as ``failed`` has returned it (then by both)."""


class OutboxAdministration:
    """Inspects an outbox, and decides about refused messages, beside running relays. Thread-safe.

    Every method blocks on the database and raises ``OutboxError`` if the database is unavailable.

    After the restore of an older backup, another message may have the id of a row. So find messages from before the
    restore by their message ids.
    """

    def __init__(self, engine: Engine, *, clock: Clock | None = None) -> None:
        """Use the database of an outbox; read nothing yet.

        Raises:
            ConfigurationError: the relay does not support the database.
        """
        self._locks = locks_for(engine)
        self._engine = self._locks.engine
        self._clock = clock or SystemClock()

    def status(self) -> list[TopicStatus]:
        """Return the topics with waiting messages, by name; sent messages are not counted."""
        return [TopicStatus(*row) for row in self._rows(_topics_that_wait())]

    def failed(self, limit: int = 100) -> list[FailedMessage]:
        """Return messages that were refused, the oldest first."""
        return [FailedMessage(*row) for row in self._rows(_failed_messages(limit))]

    def retry(self, which: Which | Sequence[Which] | None = None) -> int:
        """Retry refused messages, before the held messages of their keys; return their number. None: all of them."""
        return self._decide(None if which is None else _rows_of(which), MessageState.PENDING)

    def skip(self, which: Which | Sequence[Which]) -> int:
        """Skip refused messages, so that their keys continue; return their number. The rows stay for a while."""
        return self._decide(_rows_of(which), MessageState.SKIPPED)

    def skip_topic(self, topic: str) -> int:
        """Skip all messages of a topic that will never exist; return their number.

        Messages that a relay is publishing at this moment may still be published.
        """
        is_of_topic = OutboxMessage.topic == topic
        skipped = self._decide(is_of_topic, MessageState.SKIPPED)
        for waits in (IS_PENDING, is_stopped()):
            with self._transaction() as connection:
                skipped += connection.execute(
                    update(OutboxMessage)
                    .where(waits, is_of_topic)
                    .values(self._decided(MessageState.SKIPPED))
                    .execution_options(synchronize_session=False)
                ).rowcount
        return skipped

    def scheduled(self, limit: int = 100) -> list[ScheduledMessage]:
        """Return messages that are due later, the next first."""
        return [ScheduledMessage(*row) for row in self._rows(_scheduled_messages(limit))]

    def cancel(self, message_ids: str | Sequence[str]) -> int:
        """Cancel scheduled messages; return their number. Those that are due and on their way are not cancelled."""
        ids = [message_ids] if isinstance(message_ids, str) else list(message_ids)
        statement = delete(OutboxScheduledMessage).where(OutboxScheduledMessage.message_id.in_(ids))
        with self._transaction() as connection:
            return connection.execute(statement).rowcount

    def purge(self, older_than_seconds: float, *, on_progress: Callable[[int], object] | None = None) -> int:
        """Delete messages that were sent or skipped before this time; return their number.

        It uses small transactions, so that others wait only briefly. After each, ``on_progress`` is called with the
        number of deleted messages. Messages that another purge is deleting are left to it.
        """
        count = 0
        while True:
            with self._transaction() as connection:
                purged = purge_some(connection, self._clock.now(), older_than_seconds)
            count += purged
            if on_progress is not None:
                on_progress(purged)
            if purged < PURGE_BATCH:
                return count

    def count_purgeable(self, older_than_seconds: float) -> int:
        """Return the number of messages that ``purge`` would delete."""
        is_old = is_done_before(self._clock.now(), older_than_seconds)
        with self._transaction() as connection:
            query = select(func.count()).select_from(OutboxMessage).where(is_old)
            return connection.execute(query).scalar_one()

    def _rows(self, query: Executable) -> Sequence[Any]:
        with self._transaction() as connection:
            return connection.execute(query).all()

    def _decide(self, wanted: ColumnElement[bool] | None, state: MessageState) -> int:
        conditions = [is_failed()] if wanted is None else [is_failed(), wanted]
        lock_key = func.coalesce(OutboxMessage.lock_key, 0)
        decided = 0
        for row_id, row_lock_key in self._rows(
            select(OutboxMessage.id, lock_key).where(*conditions).order_by(lock_key)
        ):
            with self._transaction() as connection:
                # No relay may now hold a message of the key back for one that is not failed any more.
                self._locks.wait_for(connection, row_lock_key)
                decided += connection.execute(
                    update(OutboxMessage)
                    # All the conditions again: the row may be another one by now.
                    .where(*conditions, OutboxMessage.id == row_id)
                    .values(self._decided(state))
                    .execution_options(synchronize_session=False)
                ).rowcount
                connection.execute(_free_key_of(row_id))
        return decided

    def _decided(self, state: MessageState) -> dict[str, object]:
        if state is MessageState.SKIPPED:
            return {"state": state, "done_at": self._clock.now()}
        return {"state": state, "attempts": 0, "error": None}

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection, _any_text(connection):
                yield connection
        except SQLAlchemyError as error:
            raise OutboxError(f"the outbox cannot be used: {explained(error)}") from error


@contextmanager
def _any_text(connection: Connection) -> Iterator[None]:
    """Read text that is not UTF-8, which SQLite may hold, with replacement characters."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    own_factory = driver.text_factory
    driver.text_factory = lambda text: text.decode(errors="replace")
    try:
        yield
    finally:
        driver.text_factory = own_factory


# --- queries -----------------------------------------------------------------------------------


def _topics_that_wait() -> Executable:
    """Return the query of the topics with waiting messages, as ``TopicStatus`` has them."""
    topic = _as_text(OutboxMessage.topic).label("topic")
    columns = (topic, OutboxMessage.state, PUBLISHED_AT_OR_NONE)
    # Two halves, so that each uses its index, with any number of sent messages.
    waiting = union_all(select(*columns).where(IS_PENDING), select(*columns).where(is_stopped())).subquery()

    def count(state: MessageState) -> ColumnElement[int]:
        return func.count().filter(waiting.c.state == state)

    return (
        select(
            waiting.c.topic,
            count(MessageState.PENDING),
            count(MessageState.FAILED),
            count(MessageState.HELD),
            func.min(waiting.c.published_at),
        )
        .group_by(waiting.c.topic)
        .order_by(waiting.c.topic)
    )


def _failed_messages(limit: int) -> Executable:
    """Return the query of refused messages, the oldest first, as ``FailedMessage`` has them."""
    follower = aliased(OutboxMessage)
    held = (
        select(func.count())
        .where(
            is_stopped(follower),
            follower.state == MessageState.HELD,
            has_same_key(follower, OutboxMessage),
        )
        .scalar_subquery()
    )
    return (
        select(
            OutboxMessage.id,
            _as_text(OutboxMessage.topic),
            cast(OutboxMessage.key, Text),
            _as_text(OutboxMessage.message_id),
            _as_text(OutboxMessage.event_type_name),
            PUBLISHED_AT_OR_NONE,
            _as_text(OutboxMessage.error),
            held,
        )
        .where(is_failed())
        # Sorted: in the order of the ids SQLite would read the whole table.
        .order_by(OutboxMessage.id + 0)
        .limit(limit)
    )


def _scheduled_messages(limit: int) -> Executable:
    """Return the query of messages that are due later, the next first, as ``ScheduledMessage`` has them."""
    return (
        select(
            OutboxScheduledMessage.id,
            _as_text(OutboxScheduledMessage.topic),
            cast(OutboxScheduledMessage.key, Text),
            _as_text(OutboxScheduledMessage.message_id),
            _as_text(OutboxScheduledMessage.event_type_name),
            DUE_AT_OR_NONE,
        )
        .order_by(OutboxScheduledMessage.due_at, OutboxScheduledMessage.id)
        .limit(limit)
    )


def _rows_of(which: Which | Sequence[Which]) -> ColumnElement[bool]:
    """Return the condition for the given messages."""
    several: Sequence[Which] = [which] if isinstance(which, int | str | FailedMessage) else which
    ids = [one for one in several if isinstance(one, int)]
    message_ids = [one for one in several if isinstance(one, str)]
    return or_(
        false(),
        OutboxMessage.id.in_(ids),
        OutboxMessage.message_id.in_(message_ids),
        *(
            and_(OutboxMessage.id == one.id, _as_text(OutboxMessage.message_id) == one.message_id)
            for one in several
            if isinstance(one, FailedMessage)
        ),
    )


def _as_text(column: ColumnElement[Any] | InstrumentedAttribute[Any]) -> ColumnElement[str]:
    """Return a column as text, also if SQLite has bytes or NULL in it."""
    return func.coalesce(cast(column, Text), "")


def _free_key_of(row_id: int) -> Update:
    """Return the statement that releases the held messages of a row's key, unless another one of the key is failed."""
    decided = aliased(OutboxMessage)
    failed = aliased(OutboxMessage)
    return (
        update(OutboxMessage)
        .where(
            is_stopped(),
            OutboxMessage.state == MessageState.HELD,
            OutboxMessage.lock_key == select(decided.lock_key).where(decided.id == row_id).scalar_subquery(),
            exists().where(decided.id == row_id, has_same_key(decided, OutboxMessage)),
            ~exists().where(is_failed(failed), has_same_key(failed, OutboxMessage)),
        )
        .values(state=MessageState.PENDING)
        .execution_options(synchronize_session=False)
    )
