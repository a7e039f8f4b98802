"""The queries of the administration of an outbox, and what they return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Executable,
    Text,
    Update,
    and_,
    cast,
    exists,
    false,
    func,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute, aliased

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


def topics_that_wait() -> Executable:
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


def failed_messages(limit: int) -> Executable:
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


def scheduled_messages(limit: int) -> Executable:
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


def rows_of(which: Which | Sequence[Which]) -> ColumnElement[bool]:
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


def free_key_of(row_id: int) -> Update:
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
