"""The numbers of workers and outboxes, read when metrics are collected."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
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

_STATES = ("pending", "failed", "held")

_GAUGES_OF_QUEUES: Final[tuple[tuple[str, str, str, Callable[[QueueHealth], float | None]], ...]] = (
    (
        QUEUE_IN_FLIGHT,
        "{message}",
        "Number of messages received and not settled yet.",
        lambda queue: queue.in_flight,
    ),
    (QUEUE_IN_FLIGHT_LIMIT, "{message}", "The most messages in flight at once.", lambda queue: queue.limit),
    (
        QUEUE_LAST_POLL,
        "s",
        "Time since the last answer of the broker.",
        lambda queue: queue.seconds_since_poll,
    ),
    (
        QUEUE_STORE_AVAILABLE,
        "",
        "1 while the deduplication store answers, otherwise 0.",
        lambda queue: int(queue.store_is_available),
    ),
    (
        QUEUE_OPEN,
        "",
        "1 while nothing limits receiving; 0 while paused, over a rate limit, or stopped by a circuit breaker.",
        lambda queue: int(queue.flow == "open"),
    ),
)
_COUNTERS_OF_QUEUES: Final[tuple[tuple[str, str, str, Callable[[QueueHealth], int]], ...]] = (
    (
        QUEUE_LEASES_LOST,
        "{lease}",
        "Number of leases that could not be renewed in time.",
        lambda queue: queue.leases_lost,
    ),
    (QUEUE_TIMED_OUT, "{run}", "Number of runs beyond their time limit.", lambda queue: queue.timed_out),
)


class WorkerNumbers:
    """Reports the health of the workers of this process, until they end. Thread-safe."""

    def __init__(self, meter: Meter) -> None:
        self._lock = threading.Lock()
        self._workers: WeakSet[Worker] = WeakSet()
        meter.create_observable_gauge(
            WORKER_READY, [self._ready], "", "1 while all workers of the process are ready, otherwise 0."
        )
        meter.create_observable_gauge(
            WORKER_LONGEST_RUN, [self._longest_run], "s", "Time since the start of the oldest run at work."
        )
        for name, unit, description, number in _GAUGES_OF_QUEUES:
            meter.create_observable_gauge(name, [partial(self._of_queues, number)], unit, description)
        for name, unit, description, count in _COUNTERS_OF_QUEUES:
            meter.create_observable_counter(name, [partial(self._of_queues, count)], unit, description)

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

    def _of_queues(
        self, number: Callable[[QueueHealth], float | None], _: CallbackOptions
    ) -> Iterator[Observation]:
        for health in self._health():
            for queue in health.queues:
                value = number(queue)
                if value is not None:
                    yield Observation(value, {DESTINATION_NAME: queue.queue_name})


class OutboxNumbers:
    """Reports what waits in the outboxes of databases, in all of them together. Thread-safe.

    It asks each database once for each collection, in the thread that collects.
    """

    def __init__(self, meter: Meter, clock: Clock) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._outboxes: dict[Pool, _ObservedOutbox] = {}
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
            if engine.pool not in self._outboxes:
                self._outboxes[engine.pool] = _ObservedOutbox(OutboxAdministration(engine, clock=self._clock))

    def _messages(self, _: CallbackOptions) -> Iterator[Observation]:
        counts: Counter[tuple[str, str]] = Counter()
        for outbox in self._known():
            # The first of the two that is collected asks, and the other one reports the same answer.
            outbox.ask()
            for state in _STATES:
                for status in outbox.statuses:
                    counts[status.topic, state] += getattr(status, state)
                for topic in outbox.now_empty:
                    counts[topic, state] += 0
        for (topic, state), count in counts.items():
            yield Observation(count, {DESTINATION_NAME: topic, OUTBOX_STATE: state})

    def _ages(self, _: CallbackOptions) -> Iterator[Observation]:
        ages: dict[str, float] = {}
        now = self._clock.now()
        for outbox in self._known():
            for status in outbox.statuses:
                if status.oldest_published_at is not None:
                    age = (now - status.oldest_published_at).total_seconds()
                    ages[status.topic] = max(ages.get(status.topic, 0.0), age)
            for topic in outbox.now_empty:
                ages.setdefault(topic, 0.0)
        for topic, age in ages.items():
            yield Observation(age, {DESTINATION_NAME: topic})

    def _known(self) -> list[_ObservedOutbox]:
        with self._lock:
            return list(self._outboxes.values())


class _ObservedOutbox:
    """The last answer of one outbox.

    ``now_empty`` are topics for which messages have waited before: without a 0 their last number would stay on a dashboard.
    While the database does not answer, it has no numbers, because a 0 would look like an outbox that is empty.
    """

    def __init__(self, administration: OutboxAdministration) -> None:
        self.statuses: list[TopicStatus] = []
        self.now_empty: set[str] = set()
        self._administration = administration
        self._seen: set[str] = set()

    def ask(self) -> None:
        try:
            self.statuses = self._administration.status()
        except OutboxError as error:
            logger.warning("the outbox is not measured: %s", error)
            self.statuses, self.now_empty = [], set()
            return
        waiting = {status.topic for status in self.statuses}
        self.now_empty = self._seen - waiting
        self._seen |= waiting
