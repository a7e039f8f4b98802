"""The numbers of workers and outboxes, read when metrics are collected."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from melange.clock import Clock
from melange.errors import OutboxError
from melange.telemetry.conventions import DESTINATION_NAME, OUTBOX_STATE

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.pool import Pool

    from melange.consuming.health import QueueHealth, WorkerHealth
    from melange.consuming.worker import Worker
    from melange.outbox.administration import OutboxAdministration, TopicStatus

logger = logging.getLogger(__name__)

WORKER_READY: Final = "melange.worker.ready"
WORKER_LONGEST_RUN: Final = "melange.worker.longest_run"
QUEUE_IN_FLIGHT: Final = "melange.queue.in_flight"
QUEUE_IN_FLIGHT_LIMIT: Final = "melange.queue.in_flight.limit"
QUEUE_LAST_POLL: Final = "melange.queue.last_poll"
QUEUE_STORE_AVAILABLE: Final = "melange.queue.store_available"
QUEUE_OPEN: Final = "melange.queue.open"
QUEUE_LEASES_LOST: Final = "melange.queue.leases_lost"
QUEUE_TIMED_OUT: Final = "melange.queue.timed_out"
OUTBOX_MESSAGES: Final = "melange.outbox.messages"
OUTBOX_AGE: Final = "melange.outbox.age"

Observe = Callable[[CallbackOptions], Iterator[Observation]]


class WorkerNumbers:
    """Reports the health of the workers of this process, until they end. Thread-safe."""

    def __init__(self, meter: Meter) -> None:
        self._lock = threading.Lock()
        self._workers: WeakSet[Worker] = WeakSet()

        def gauge(name: str, unit: str, description: str, observe: Observe) -> None:
            meter.create_observable_gauge(name, [observe], unit, description)

        def counter(name: str, unit: str, description: str, observe: Observe) -> None:
            meter.create_observable_counter(name, [observe], unit, description)

        def of_queues(number: Callable[[QueueHealth], float | None]) -> Observe:
            return lambda _: self._of_queues(number)

        gauge(WORKER_READY, "", "1 while all workers of the process are ready, otherwise 0.", self._ready)
        gauge(WORKER_LONGEST_RUN, "s", "Time since the start of the oldest run at work.", self._longest_run)
        gauge(
            QUEUE_IN_FLIGHT,
            "{message}",
            "Number of messages received and not settled yet.",
            of_queues(lambda queue: queue.in_flight),
        )
        gauge(
            QUEUE_IN_FLIGHT_LIMIT,
            "{message}",
            "The most messages in flight at once.",
            of_queues(lambda queue: queue.limit),
        )
        gauge(
            QUEUE_LAST_POLL,
            "s",
            "Time since the last answer of the broker.",
            of_queues(lambda queue: queue.seconds_since_poll),
        )
        gauge(
            QUEUE_STORE_AVAILABLE,
            "",
            "1 while the deduplication store answers, otherwise 0.",
            of_queues(lambda queue: int(queue.store_is_available)),
        )
        gauge(
            QUEUE_OPEN,
            "",
            "1 while nothing limits receiving; 0 while paused, over a rate limit, or stopped by a circuit breaker.",
            of_queues(lambda queue: int(queue.flow == "open")),
        )
        counter(
            QUEUE_LEASES_LOST,
            "{lease}",
            "Number of leases that could not be renewed in time.",
            of_queues(lambda queue: queue.leases_lost),
        )
        counter(
            QUEUE_TIMED_OUT,
            "{run}",
            "Number of runs beyond their time limit.",
            of_queues(lambda queue: queue.timed_out),
        )

    def add(self, worker: Worker) -> None:
        """Report the worker until it ends."""
        with self._lock:
            self._workers.add(worker)

    def _health(self) -> list[WorkerHealth]:
        with self._lock:
            workers = list(self._workers)
        return [worker.health() for worker in workers if not worker.has_ended]

    def _ready(self, _: CallbackOptions) -> Iterator[Observation]:
        states = self._health()
        if states:
            yield Observation(int(all(one.ready for one in states)))

    def _longest_run(self, _: CallbackOptions) -> Iterator[Observation]:
        states = self._health()
        if states:
            yield Observation(max(one.longest_run_seconds for one in states))

    def _of_queues(self, number: Callable[[QueueHealth], float | None]) -> Iterator[Observation]:
        for health in self._health():
            for queue in health.queues:
                value = number(queue)
                if value is not None:
                    yield Observation(value, {DESTINATION_NAME: queue.queue_name})


class OutboxNumbers:
    """Reports what waits in the outboxes of databases. Thread-safe.

    It asks each database once for each collection, in the thread that collects.
    """

    def __init__(self, meter: Meter, clock: Clock) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._outboxes: dict[Pool, OutboxAdministration] = {}
        self._asked: list[TopicStatus] = []
        self._seen: set[str] = set()
        meter.create_observable_gauge(
            OUTBOX_MESSAGES, [self._messages], "{message}", "Number of messages in the outbox, not sent yet."
        )
        meter.create_observable_gauge(
            OUTBOX_AGE, [self._ages], "s", "Age of the oldest message in the outbox that was not sent yet."
        )

    def add(self, engine: Engine) -> None:
        """Report the outbox in this database from now on."""
        from melange.outbox.administration import OutboxAdministration  # noqa: PLC0415 - it needs SQLAlchemy

        with self._lock:
            self._outboxes[engine.pool] = OutboxAdministration(engine, clock=self._clock)

    def _messages(self, _: CallbackOptions) -> Iterator[Observation]:
        # The first of the two that is collected asks, and the other one reports the same answer.
        self._asked = list(self._statuses())
        for status in self._asked:
            for state in ("pending", "failed", "held"):
                yield Observation(
                    getattr(status, state), {DESTINATION_NAME: status.topic, OUTBOX_STATE: state}
                )
        now_empty = self._seen - {status.topic for status in self._asked}
        self._seen.update(status.topic for status in self._asked)
        for topic in now_empty:  # otherwise the last number would stay on a dashboard
            for state in ("pending", "failed", "held"):
                yield Observation(0, {DESTINATION_NAME: topic, OUTBOX_STATE: state})

    def _ages(self, _: CallbackOptions) -> Iterator[Observation]:
        now = self._clock.now()
        for status in self._asked:
            if status.oldest_published_at is not None:
                age = max(0.0, (now - status.oldest_published_at).total_seconds())
                yield Observation(age, {DESTINATION_NAME: status.topic})
        for topic in self._seen - {status.topic for status in self._asked}:
            yield Observation(0, {DESTINATION_NAME: topic})

    def _statuses(self) -> Iterator[TopicStatus]:
        with self._lock:
            outboxes = list(self._outboxes.values())
        for outbox in outboxes:
            try:
                yield from outbox.status()
            except OutboxError as error:
                logger.warning("the outbox is not measured: %s", error)
