"""Administration of dead letters in memory; see ``melange.drivers.dead_letters``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING

from melange.drivers.base import QueueDepth
from melange.drivers.dead_letters import NO_NOTES, FoundDeadLetter, MoveTask, sent_on
from melange.drivers.memory.broker import MemoryBroker
from melange.drivers.sqs_rules import MAX_BATCH, MAX_VISIBILITY_SECONDS
from melange.errors import ConfigurationError, Failure
from melange.messages import Delivery, Queue

if TYPE_CHECKING:
    from melange.drivers.memory.driver import InMemoryDriver


class MemoryDeadLetters:
    """The dead letters of one in-memory broker; see ``DeadLetterAccess``."""

    counts_are_estimates = False

    def __init__(
        self, driver: InMemoryDriver, lock: AbstractContextManager[object], broker: MemoryBroker
    ) -> None:
        self._driver = driver
        self._lock = lock
        self._broker = broker
        self.moves = MemoryMoves(driver, self)

    def measure(self, queue: Queue) -> QueueDepth:
        return self._driver.measure_queue(queue)

    def sources(self, dead_letter_queue: Queue) -> dict[str, str]:
        with self._lock:
            sources = self._broker.sources_of(self._broker.queue(dead_letter_queue))
            return {source.queue.name: source.queue.address for source in sources}

    def browse(self, queue: Queue, *, visibility_timeout_seconds: int) -> list[FoundDeadLetter]:
        deliveries = self._driver.receive(
            queue, MAX_BATCH, 0, visibility_timeout_seconds=visibility_timeout_seconds
        )
        now, monotonic = self._driver.clock.now(), self._driver.clock.monotonic()
        with self._lock:
            source = self._broker.queue(queue)
            arrivals = [source.arrival_of(delivery) for delivery in deliveries]
        return [
            FoundDeadLetter(
                delivery, None if sent_at is None else now - timedelta(seconds=monotonic - sent_at), was_moved
            )
            for delivery, (sent_at, was_moved) in zip(deliveries, arrivals, strict=True)
        ]

    def resend(
        self, deliveries: Sequence[Delivery], target: Queue, *, notes: Mapping[str, str] = NO_NOTES
    ) -> list[Failure[Delivery]]:
        messages = [
            sent_on(delivery, is_fifo=target.is_fifo, note=notes.get(delivery.receipt_handle))
            for delivery in deliveries
        ]
        errors = {failure.item.message_id: failure.error for failure in self._driver.send(target, messages)}
        return [
            Failure(delivery, errors[delivery.message.message_id])
            for delivery in deliveries
            if delivery.message.message_id in errors
        ]


class MemoryMoves:
    """Moves of whole queues, complete when they return; see ``MessageMoves``."""

    def __init__(self, driver: InMemoryDriver, access: MemoryDeadLetters) -> None:
        self._driver = driver
        self._access = access
        self._tasks: dict[str, list[MoveTask]] = {}

    def start(self, queue: Queue, destination: Queue, *, messages_per_second: int | None = None) -> None:
        """Move all visible messages at once; ``messages_per_second`` is noted and does not delay anything."""
        if not self._access.sources(queue):
            raise ConfigurationError(f"queue {queue.name!r} is not the dead-letter queue of another queue")
        started_at, moved = self._driver.clock.now(), 0
        while found := self._access.browse(queue, visibility_timeout_seconds=MAX_VISIBILITY_SECONDS):
            deliveries = [one.delivery for one in found]
            self._access.resend(deliveries, destination)
            self._driver.acknowledge(deliveries)
            moved += len(deliveries)
        task = MoveTask("completed", destination.name, moved, moved, messages_per_second, started_at)
        self._tasks.setdefault(queue.address, []).insert(0, task)

    def recent(self, queue: Queue) -> list[MoveTask]:
        return list(self._tasks.get(queue.address, []))

    def cancel(self, queue: Queue) -> int | None:
        """Return None: a move is over when ``start`` returns."""
        return None
