"""Batches of a relay: choose the next rows (``locks``), read (``rows``), publish (``topic_publisher``) and mark them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, and_

from melange.clock import Clock
from melange.drivers.sqs_rules import MAX_BATCH
from melange.errors import MelangeError
from melange.messages import Message
from melange.outbox.locks import Locks
from melange.outbox.rows import (
    AcceptedMessage,
    PendingMessage,
    commit,
    count_attempts,
    mark_failed,
    mark_held,
    mark_sent,
    prove_writable,
    read_pending,
)
from melange.outbox.tables import IS_PENDING, OutboxMessage
from melange.outbox.topic_publisher import TopicPublisher

_LOOKS = 20
PUBLISHING_SECONDS = 10.0
"""After this time a batch stops publishing and marks its messages: locks, a stop and probes wait for it."""


class Progress(NamedTuple):
    """The result of a batch: the numbers of messages that were sent, and that are not pending any more."""

    sent: int
    done: int


@dataclass(slots=True)
class _Results:
    sent: list[AcceptedMessage] = field(default_factory=list)
    failed: list[tuple[PendingMessage, MelangeError]] = field(default_factory=list)
    attempted: list[PendingMessage] = field(default_factory=list)
    held: list[PendingMessage] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sent) + len(self.failed) + len(self.held)


class BatchRelay:
    """Publishes one batch after the other, in order for each key. Not thread-safe.

    A message is marked after it was published: if the process ends in between, it is published again. If only the
    database fails, the relay remembers the message and marks it before it publishes anything else. The first batch,
    and each one after an error, begins with a test that marks can be written.
    """

    def __init__(
        self,
        topics: TopicPublisher,
        locks: Locks,
        clock: Clock,
        *,
        limit: int,
        max_attempts: int,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._topics = topics
        self._locks = locks
        self._clock = clock
        self._limit = limit
        self._max_attempts = max_attempts
        self._is_stopping = is_stopping
        self._unmarked: list[AcceptedMessage] = []
        self._is_writable = False

    def relay(self) -> Progress:
        """Publish at most ``limit`` pending messages, fewer if the broker is slow, and mark them.

        A result without finished messages means that there is nothing to do now.

        Raises:
            SQLAlchemyError: the database cannot be used, or the connection that holds the locks was lost.
            DriverClosedError: the driver was closed.
        """
        was_writable, self._is_writable = self._is_writable, False
        with self._locks.engine.connect() as connection:
            self._mark_late(connection)
            if not was_writable:
                prove_writable(connection, self._limit, self._clock.now())
            progress = self._relay(connection)
        self._is_writable = True
        return progress

    def _mark_late(self, connection: Connection) -> None:
        if self._unmarked:
            mark_sent(connection, self._unmarked, self._clock.now(), IS_PENDING)
            commit(connection)
            self._unmarked.clear()

    def _relay(self, connection: Connection) -> Progress:
        messages = self._choose(connection)
        if not messages:
            return Progress(0, 0)
        if not self._locks.live_in_transaction:
            commit(connection)  # publishing may take long, and no other transaction should wait for it
        results = _Results(held=[message for message in messages if message.is_stopped])
        try:
            self._publish(connection, [one for one in messages if not one.is_stopped], results)
        finally:  # accepted messages are marked, also after an exception
            self._unmarked += results.sent
            if not connection.invalidated:  # otherwise the first exception says more than a failed mark
                self._mark(connection, results)
                self._unmarked.clear()
        return Progress(len(results.sent), len(results))

    def _choose(self, connection: Connection) -> list[PendingMessage]:
        among = and_(
            OutboxMessage.topic.not_in(self._topics.paused),
            OutboxMessage.lock_key.not_in(self._topics.resting_lock_keys),
        )
        for _ in range(_LOOKS):
            chosen = self._locks.choose(connection, self._limit, among)
            messages = [] if chosen is None else read_pending(connection, chosen, self._limit)
            if chosen is None or messages or not self._locks.live_in_transaction:
                return messages
            # Another relay has sent them before their keys were locked: there may be more behind them.
        return []

    def _publish(self, connection: Connection, messages: Sequence[PendingMessage], results: _Results) -> None:
        deadline = self._clock.monotonic() + PUBLISHING_SECONDS

        def is_enough() -> bool:
            # Without a result, try the next topic: it may not have the problem of this one.
            return self._clock.monotonic() >= deadline and (len(results) > 0 or self._is_stopping())

        by_topic: defaultdict[str | None, list[PendingMessage]] = defaultdict(list)
        for message in messages:
            by_topic[message.topic].append(message)
        for of_topic in by_topic.values():
            self._publish_topic(connection, of_topic, results, is_enough)

    def _publish_topic(
        self,
        connection: Connection,
        messages: Sequence[PendingMessage],
        results: _Results,
        is_enough: Callable[[], bool],
    ) -> None:
        stopped: set[str] = set()
        for wave in _waves(messages):
            going = [one for one in wave if one.key not in stopped]
            for start in range(0, len(going), MAX_BATCH):
                if is_enough():
                    return
                # With the connection the locks are lost: another relay may work on these keys.
                self._locks.confirm(connection)
                not_sent = self._publish_call(going[start : start + MAX_BATCH], results)
                if not_sent is None:
                    return
                stopped.update(one.key for one in not_sent if one.key is not None)

    def _publish_call(
        self, messages: Sequence[PendingMessage], results: _Results
    ) -> list[PendingMessage] | None:
        """Publish messages of one topic in one call; return those that were not sent, None for trouble with the topic."""
        readable: list[tuple[PendingMessage, Message]] = []
        not_sent: list[PendingMessage] = []
        for one in messages:
            if isinstance(one.message, Message):
                readable.append((one, one.message))
            else:
                results.failed.append((one, one.message))
                not_sent.append(one)
        if not readable:
            return not_sent
        answer = self._topics.publish(readable[0][0].topic or "", [message for _, message in readable])
        results.sent += [
            AcceptedMessage(readable[place][0].id, readable[place][1].message_id) for place in answer.accepted
        ]
        for place, error in answer.refused.items():
            results.failed.append((readable[place][0], error))
        for place, error in answer.failed.items():
            self._count_attempt(readable[place][0], error, results)
        if answer.trouble is not None:
            return None
        return not_sent + [readable[place][0] for place in (*answer.refused, *answer.failed)]

    def _count_attempt(self, message: PendingMessage, error: MelangeError, results: _Results) -> None:
        results.attempted.append(message)
        attempts = message.attempts + 1
        if attempts >= self._max_attempts:
            results.failed.append((message, error))
        elif message.lock_key is not None:
            self._topics.rest(message.lock_key, attempts, error)

    def _mark(self, connection: Connection, results: _Results) -> None:
        if results.sent:
            mark_sent(connection, results.sent, self._clock.now())
        if results.attempted:
            count_attempts(connection, results.attempted)
        for message, error in results.failed:
            mark_failed(connection, message, error)
        if results.held:
            mark_held(connection, results.held)
        commit(connection)


def _waves(messages: Sequence[PendingMessage]) -> Iterator[list[PendingMessage]]:
    """Split messages of one topic into lists with one message of each key, in the order of each key.

    The broker may accept a part of a call: with two messages of a key, the second could be accepted before the first.
    """
    waves: list[list[PendingMessage]] = [[]]
    seen: dict[str, int] = {}
    for message in messages:
        number = 0
        if message.key is not None:
            number = seen[message.key] = seen.get(message.key, -1) + 1
        if number == len(waves):
            waves.append([])
        waves[number].append(message)
    return iter(waves)
