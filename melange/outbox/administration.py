"""Looking into an outbox, and deciding about what was refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Update,
    and_,
    delete,
    exists,
    func,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import aliased

from melange.errors import OutboxError
from melange.outbox.database_errors import explained
from melange.outbox.locks import locks_for
from melange.outbox.tables import (
    IS_PENDING,
    PUBLISHED_AT,
    OutboxMessage,
    State,
    is_failed,
    is_stopped,
)

_PURGE_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """How many messages for one topic are on their way, refused, or held by those; and since when the oldest waits."""

    topic: str
    pending: int
    failed: int
    held: int
    oldest_published_at: datetime


@dataclass(frozen=True, slots=True)
class FailedMessage:
    """A message that was refused; ``held`` messages of its key wait for what is decided about it."""

    id: int
    topic: str
    key: str | None
    message_id: str
    event_type_name: str
    published_at: datetime
    error: str
    held: int


class OutboxAdministration:
    """Shows what is in an outbox, and decides about what was refused, beside relays at work. Thread-safe.

    Every method blocks on the database and raises ``OutboxError`` when that cannot be used.
    """

    def __init__(self, engine: Engine) -> None:
        """Take the database that the outbox is in.

        Raises:
            ConfigurationError: it is none that the relay knows.
        """
        self._locks = locks_for(engine)
        isolation_level = self._locks.isolation_level
        self._engine = (
            engine.execution_options(isolation_level=isolation_level) if isolation_level else engine
        )

    def status(self) -> list[TopicStatus]:
        """Return the topics that messages wait for, by name; what was sent is not counted."""

        columns = (OutboxMessage.topic, OutboxMessage.state, PUBLISHED_AT)
        # Two halves, so that each is found by its index however much was sent.
        waiting = union_all(
            select(*columns).where(IS_PENDING), select(*columns).where(is_stopped())
        ).subquery()

        def count(state: State) -> ColumnElement[int]:
            return func.count().filter(waiting.c.state == state)

        query = (
            select(
                waiting.c.topic,
                count(State.PENDING),
                count(State.FAILED),
                count(State.HELD),
                func.min(waiting.c.published_at),
            )
            .group_by(waiting.c.topic)
            .order_by(waiting.c.topic)
        )
        with self._transaction() as connection:
            return [TopicStatus(*row) for row in connection.execute(query)]

    def failed(self, limit: int = 100) -> list[FailedMessage]:
        """Return messages that were refused, the oldest first."""
        follower = aliased(OutboxMessage)
        held = (
            select(func.count())
            .where(
                is_stopped(follower),
                follower.state == State.HELD,
                _has_same_key(follower),
            )
            .scalar_subquery()
        )
        query = (
            select(
                OutboxMessage.id,
                OutboxMessage.topic,
                OutboxMessage.key,
                OutboxMessage.message_id,
                OutboxMessage.event_type_name,
                PUBLISHED_AT,
                func.coalesce(OutboxMessage.error, ""),
                held,
            )
            .where(is_failed())
            # Sorted: in the order of the ids SQLite would read the whole table.
            .order_by(OutboxMessage.id + 0)
            .limit(limit)
        )
        with self._transaction() as connection:
            return [FailedMessage(*row) for row in connection.execute(query)]

    def retry(self, ids: int | Sequence[int] | None = None) -> int:
        """Have refused messages tried again, before what their keys hold; return how many. None: all of them."""
        return self._decide(ids, State.PENDING)

    def skip(self, ids: int | Sequence[int]) -> int:
        """Leave refused messages out for good, so that their keys go on; return how many. The rows stay for a while."""
        return self._decide(ids, State.SKIPPED)

    def skip_topic(self, topic: str) -> int:
        """Leave out for good whatever waits for a topic, one that will never be there; return how many messages.

        What a relay has in hand at this moment may still be published.
        """
        with self._transaction() as connection:
            failed = connection.scalars(
                select(OutboxMessage.id).where(is_failed(), OutboxMessage.topic == topic)
            ).all()
        skipped = self._decide(failed, State.SKIPPED)
        for waits in (IS_PENDING, is_stopped()):
            with self._transaction() as connection:
                skipped += connection.execute(
                    update(OutboxMessage)
                    .where(waits, OutboxMessage.topic == topic)
                    .values(_decided(State.SKIPPED))
                    .execution_options(synchronize_session=False)
                ).rowcount
        return skipped

    def purge(self, older_than_seconds: float, *, on_progress: Callable[[int], object] | None = None) -> int:
        """Delete what was sent or skipped longer ago than that; return how many.

        It goes in small transactions, so that nobody waits for long; after each, ``on_progress`` is called with how
        many it has deleted.
        """
        count = 0
        while True:
            with self._transaction() as connection:
                purged = purge_some(connection, older_than_seconds, _PURGE_BATCH)
            count += purged
            if on_progress is not None:
                on_progress(purged)
            if purged < _PURGE_BATCH:
                return count

    def count_purgeable(self, older_than_seconds: float) -> int:
        """Return how many messages ``purge`` would delete."""
        with self._transaction() as connection:
            query = select(func.count()).select_from(OutboxMessage).where(_is_done_before(older_than_seconds))
            return connection.execute(query).scalar_one()

    def _decide(self, ids: int | Sequence[int] | None, state: State) -> int:
        chosen = [ids] if isinstance(ids, int) else ids
        wanted = is_failed() if chosen is None else is_failed() & OutboxMessage.id.in_(chosen)
        columns = (OutboxMessage.id, OutboxMessage.lock_key, OutboxMessage.topic, OutboxMessage.key)
        with self._transaction() as connection:
            found = connection.execute(select(*columns).where(wanted).order_by(OutboxMessage.lock_key)).all()
        decided = 0
        for row in found:
            with self._transaction() as connection:
                # No relay may hold a message of the key back at this moment for one that is failed no more.
                self._locks.wait_for(connection, row.lock_key)
                decided += connection.execute(
                    update(OutboxMessage)
                    .where(is_failed(), OutboxMessage.id == row.id)
                    .values(_decided(state))
                ).rowcount
                if row.key is not None:
                    connection.execute(_free(row.lock_key, row.topic, row.key))
        return decided

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise OutboxError(f"the outbox cannot be used: {explained(error)}") from error


def purge_some(connection: Connection, older_than_seconds: float, limit: int) -> int:
    """Delete at most ``limit`` messages that were sent or skipped longer ago than that; return how many."""
    oldest = (
        select(OutboxMessage.id)
        .where(_is_done_before(older_than_seconds))
        .order_by(OutboxMessage.done_at)
        .limit(limit)
    )
    return connection.execute(
        delete(OutboxMessage).where(OutboxMessage.id.in_(oldest.scalar_subquery()))
    ).rowcount


def _is_done_before(seconds_ago: float) -> ColumnElement[bool]:
    return OutboxMessage.done_at < datetime.now(UTC) - timedelta(seconds=seconds_ago)


def _has_same_key(other: type[OutboxMessage]) -> ColumnElement[bool]:
    return and_(
        other.lock_key == OutboxMessage.lock_key,
        other.topic == OutboxMessage.topic,
        other.key == OutboxMessage.key,
    )


def _decided(state: State) -> dict[str, object]:
    if state is State.SKIPPED:
        return {"state": state, "done_at": datetime.now(UTC)}
    return {"state": state, "attempts": 0, "error": None}


def _free(lock_key: int, topic: str, key: str) -> Update:
    """Return the statement that lets go of what one key holds, unless something else of it is failed."""
    failed = aliased(OutboxMessage)
    return (
        update(OutboxMessage)
        .where(
            is_stopped(),
            OutboxMessage.state == State.HELD,
            OutboxMessage.lock_key == lock_key,
            OutboxMessage.topic == topic,
            OutboxMessage.key == key,
            ~exists().where(is_failed(failed), _has_same_key(failed)),
        )
        .values(state=State.PENDING)
        .execution_options(synchronize_session=False)
    )
