"""One batch of an outbox: choose, publish, mark."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, exists, select, update
from sqlalchemy.orm import aliased

from melange.drivers.sqs_rules import MAX_BATCH
from melange.errors import MelangeError
from melange.failpoints import fail_point
from melange.messages import JSON_CONTENT_TYPE, NO_HEADERS, Message
from melange.outbox.locks import Locks
from melange.outbox.tables import IS_PENDING, PUBLISHED_AT, OutboxMessage, State, is_failed
from melange.outbox.topic_publisher import Topics

logger = logging.getLogger(__name__)

MAX_ERROR_CHARACTERS = 1_000
_LOOKS = 20
PUBLISHING_SECONDS = 10.0
"""After so long a batch publishes no more, and marks what it has: locks, a stop and probes wait for it."""

_COLUMNS = (
    OutboxMessage.id,
    OutboxMessage.topic,
    OutboxMessage.key,
    OutboxMessage.lock_key,
    OutboxMessage.message_id,
    OutboxMessage.event_type_name,
    OutboxMessage.body,
    OutboxMessage.headers,
    PUBLISHED_AT,
    OutboxMessage.message_group_id,
    OutboxMessage.message_deduplication_id,
    OutboxMessage.attempts,
)

_Row = Any
"""A row with ``_COLUMNS``; SQLAlchemy 2.0 and 2.1 write its type in different ways."""


def _is_stopped() -> ColumnElement[bool]:
    """Return whether a failed message stops the row's key; nothing stops a row without one."""
    failed = aliased(OutboxMessage)
    return exists().where(
        is_failed(failed),
        failed.lock_key == OutboxMessage.lock_key,
        failed.topic == OutboxMessage.topic,
        failed.key == OutboxMessage.key,
    )


# What every batch needs is built once: to build it each time took an eighth of the relay's time.

# One statement, which sees one moment: a failed message is decided about together with what it holds back, and
# what comes after that must not be seen free beside followers that are not.
_PENDING_IN_ORDER = (
    select(*_COLUMNS, _is_stopped().label("is_stopped")).where(IS_PENDING).order_by(OutboxMessage.id)
)
_MARK_SENT = (
    update(OutboxMessage)
    .where(OutboxMessage.id.in_(bindparam("ids", expanding=True)))
    .values(state=State.SENT, done_at=bindparam("now"))
    .execution_options(synchronize_session=False)
)


@dataclass(slots=True)
class _Results:
    """What a batch came to, by the ids of the rows."""

    sent: list[int] = field(default_factory=list)
    failed: dict[int, tuple[_Row, MelangeError]] = field(default_factory=dict)
    attempted: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sent) + len(self.failed) + len(self.held)


def relay_batch(
    connection: Connection,
    topics: Topics,
    locks: Locks,
    *,
    limit: int,
    max_attempts: int,
    is_stopping: Callable[[], bool],
    unmarked: list[int],
) -> tuple[int, int]:
    """Publish at most ``limit`` pending messages, in order for each key, and mark them in the same transaction.

    With a slow broker it is fewer, see ``PUBLISHING_SECONDS``. Returns how many were sent, and how many are not
    pending any more: with 0 there is nothing left to do now.

    A message is marked after it was published: if the process ends in between, it is published again. If only the
    database is in the way, its id is kept in ``unmarked``, and it is marked by the next call.
    """
    _mark_late(connection, unmarked)
    rows = _choose(connection, topics, locks, limit)
    if not rows:
        return 0, 0
    if not locks.live_in_transaction:
        _commit(connection)  # publishing may take long, and nobody should wait for that
    results = _Results(held=[row.id for row in rows if row.is_stopped])
    fail_point("before-outbox-publish")
    try:
        _publish(
            [row for row in rows if not row.is_stopped],
            topics,
            results,
            max_attempts=max_attempts,
            is_stopping=is_stopping,
        )
    finally:  # what was accepted is marked, whatever ends the publishing
        fail_point("before-outbox-mark")
        unmarked += results.sent
        _mark(connection, results)
        _commit(connection)
        unmarked.clear()
    fail_point("after-outbox-mark")
    return len(results.sent), len(results)


def _choose(connection: Connection, topics: Topics, locks: Locks, limit: int) -> Sequence[_Row]:
    among = and_(
        OutboxMessage.topic.not_in(topics.paused), OutboxMessage.lock_key.not_in(topics.resting_lock_keys)
    )
    for _ in range(_LOOKS):
        chosen = locks.choose(connection, limit, among)
        rows = (
            [] if chosen is None else list(connection.execute(_PENDING_IN_ORDER.where(chosen).limit(limit)))
        )
        if chosen is None or rows or not locks.live_in_transaction:
            return rows
        # Another relay has sent them before their keys were locked: there may be more behind them.
    return []


def _commit(connection: Connection) -> None:
    try:
        connection.commit()
    except BaseException:
        # Without it SQLAlchemy gives the connection back as it is: SQLite keeps what it could not commit, and locks
        # everybody else out.
        connection.rollback()
        raise


def _publish(
    rows: Sequence[_Row],
    topics: Topics,
    results: _Results,
    *,
    max_attempts: int,
    is_stopping: Callable[[], bool],
) -> None:
    deadline = time.monotonic() + PUBLISHING_SECONDS

    def is_enough() -> bool:
        # With nothing to show, the next topic has its chance: it may not be what keeps this one.
        return time.monotonic() > deadline and (len(results) > 0 or is_stopping())

    by_topic: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        by_topic[row.topic].append(row)
    for topic, of_topic in by_topic.items():
        _publish_to(topic, of_topic, topics, results, max_attempts=max_attempts, is_enough=is_enough)


def _publish_to(
    topic: str,
    rows: Sequence[_Row],
    topics: Topics,
    results: _Results,
    *,
    max_attempts: int,
    is_enough: Callable[[], bool],
) -> None:
    stopped: set[str] = set()
    for wave in _waves(rows):
        going = [row for row in wave if row.key not in stopped]
        for start in range(0, len(going), MAX_BATCH):
            if is_enough():
                return
            chunk = going[start : start + MAX_BATCH]
            answer = topics.publish(topic, [_message(row) for row in chunk])
            results.sent += [chunk[place].id for place in answer.accepted]
            for place, error in answer.refused.items():
                results.failed[chunk[place].id] = (chunk[place], error)
            for place, error in answer.failed.items():
                row = chunk[place]
                results.attempted.append(row.id)
                if row.attempts + 1 >= max_attempts:
                    results.failed[row.id] = (row, error)
                else:
                    topics.rest(row.lock_key, row.attempts + 1, error)
            if answer.trouble is not None:
                return
            stopped.update(
                chunk[place].key
                for place in (*answer.refused, *answer.failed)
                if chunk[place].key is not None
            )


def _waves(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Cut rows of one topic into lists that hold one row of each key, in the order of each key.

    Of what travels in one call some may be accepted and some not: no two of a key, or the second of them could
    get ahead of the first.
    """
    waves: list[list[_Row]] = [[]]
    seen: dict[str, int] = {}
    for row in rows:
        number = 0
        if row.key is not None:
            number = seen[row.key] = seen.get(row.key, -1) + 1
        if number == len(waves):
            waves.append([])
        waves[number].append(row)
    return iter(waves)


def _message(row: _Row) -> Message:
    return Message(
        row.message_id,
        row.body,
        row.event_type_name,
        MappingProxyType(row.headers) if row.headers else NO_HEADERS,
        row.published_at,
        JSON_CONTENT_TYPE,
        row.message_group_id,
        row.message_deduplication_id,
    )


def _mark(connection: Connection, results: _Results) -> None:
    if results.sent:
        connection.execute(_MARK_SENT, {"ids": results.sent, "now": datetime.now(UTC)})
    if results.attempted:
        connection.execute(_of(results.attempted).values(attempts=OutboxMessage.attempts + 1))
    for row, error in results.failed.values():
        reason = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARACTERS]
        failing = _of([row.id]).where(IS_PENDING).values(state=State.FAILED, error=_storable(reason))
        if connection.execute(failing).rowcount:  # or else somebody has skipped it meanwhile
            _log_failed(row, reason)
    if results.held:
        # Checked once more: somebody may have decided about the failed one meanwhile.
        connection.execute(_of(results.held).where(IS_PENDING, _is_stopped()).values(state=State.HELD))


def _mark_late(connection: Connection, unmarked: list[int]) -> None:
    if unmarked:
        connection.execute(_MARK_SENT.where(IS_PENDING), {"ids": unmarked, "now": datetime.now(UTC)})
        _commit(connection)
        unmarked.clear()


def _storable(text: str) -> str:
    return text.replace("\0", "").encode(errors="replace").decode()


def _of(ids: Sequence[int]) -> Any:
    return update(OutboxMessage).where(OutboxMessage.id.in_(ids)).execution_options(synchronize_session=False)


def _log_failed(row: _Row, reason: str) -> None:
    logger.error(
        "message %s (row %d) for topic %s was refused (%s) and stops its key; see `melange outbox failed`, then "
        "`melange outbox retry %d` or `melange outbox skip %d`",
        row.message_id,
        row.id,
        ascii(row.topic),
        ascii(reason),
        row.id,
        row.id,
        extra={"message_id": row.message_id, "topic_name": row.topic, "outbox_id": row.id},
    )
