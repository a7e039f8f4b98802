"""Metrics of publishing and consuming, by the semantic conventions for messaging."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, TypeVar

from opentelemetry import metrics
from opentelemetry.metrics import Histogram, MeterProvider

from melange.clock import Clock, SystemClock
from melange.consuming.listener import ListenerCall
from melange.consuming.outcomes import Acknowledge, DeadLetter, Outcome
from melange.errors import Failure
from melange.messages import Delivery, Message, Queue, Topic
from melange.middleware import Middleware, Publish
from melange.telemetry.conventions import (
    DESTINATION_NAME,
    ERROR_TYPE,
    INSTRUMENTATION_NAME,
    LISTENER_NAME,
    OUTCOME,
    Attributes,
    Operation,
    error_of,
    error_type,
    operation_attributes_of,
    outcome_name,
)
from melange.telemetry.gauges import OutboxNumbers, WorkerNumbers

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from melange.consuming.worker import Worker
    from melange.outbox.relay import OutboxRelay

SENT: Final = "messaging.client.sent.messages"
CONSUMED: Final = "messaging.client.consumed.messages"
OPERATION_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"
LISTENER_DURATION: Final = "melange.listener.duration"
LISTENER_ATTEMPTS: Final = "melange.listener.attempts"
DEAD_LETTERS: Final = "melange.dead_letters"
MESSAGE_AGE: Final = "melange.message.age"
QUEUE_LAG: Final = "melange.queue.lag"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The boundaries of the conventions."""
_PROCESS_SECONDS = (*_SECONDS, 30, 60, 300, 1_800)
_AGE_SECONDS = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3_600, 14_400, 43_200, 86_400)
_ATTEMPTS = (1, 2, 3, 5, 8, 13, 20, 25, 50)


Result = TypeVar("Result")


class Metrics(Middleware):
    """Counts and measures what is published and consumed, and reports the numbers of workers and relays.

    Names and meanings are in ``docs/telemetry.md``. The numbers of a worker or an outbox are read when metrics are
    collected.
    """

    def __init__(self, meter_provider: MeterProvider | None = None, *, clock: Clock | None = None) -> None:
        """Measure with this provider, or with the process's own.

        Args:
            meter_provider: by default what ``opentelemetry.metrics.set_meter_provider`` was given.
            clock: the clock by which the age of messages is measured.
        """
        meter = metrics.get_meter(INSTRUMENTATION_NAME, version("melange"), meter_provider)
        self._clock = clock or SystemClock()

        def histogram(name: str, unit: str, description: str, boundaries: Sequence[float]) -> Histogram:
            return meter.create_histogram(
                name, unit, description, explicit_bucket_boundaries_advisory=boundaries
            )

        # The descriptions of what the conventions have are theirs.
        self._sent = meter.create_counter(
            SENT, "{message}", "Number of messages producer attempted to send to the broker."
        )
        self._consumed = meter.create_counter(
            CONSUMED, "{message}", "Number of messages that were delivered to the application."
        )
        self._operation_duration = histogram(
            OPERATION_DURATION,
            "s",
            "Duration of messaging operation initiated by a producer or consumer client.",
            _SECONDS,
        )
        self._process_duration = histogram(
            PROCESS_DURATION, "s", "Duration of processing operation.", _PROCESS_SECONDS
        )
        self._listener_duration = histogram(
            LISTENER_DURATION, "s", "Duration of one run of a listener.", _PROCESS_SECONDS
        )
        self._attempts = histogram(
            LISTENER_ATTEMPTS,
            "{attempt}",
            "Number of runs until a listener had finished a message or gave it up.",
            _ATTEMPTS,
        )
        self._dead_letters = meter.create_counter(
            DEAD_LETTERS, "{message}", "Number of messages that were rejected."
        )
        self._message_age = histogram(
            MESSAGE_AGE, "s", "Time between the publishing of a message and its receipt.", _AGE_SECONDS
        )
        self._lag = meter.create_gauge(
            QUEUE_LAG, "s", "Age of the oldest message of the last poll; 0 if there was none."
        )
        self._workers = WorkerNumbers(meter)
        self._outboxes = OutboxNumbers(meter, self._clock)
        self._of_successes: dict[tuple[str, str, str], Attributes] = {}
        """By address of the queue, listener ("" for the delivery) and reason: made once, because most outcomes are these."""
        self._known: dict[tuple[Operation, str], Attributes] = {}

    def around_publish(
        self, destination: Topic | Queue, messages: Sequence[Message], publish: Publish
    ) -> list[Failure[Message]]:
        """Count the messages, the failed ones by their errors, and measure the call."""
        attributes = self._attributes("send", destination)
        started = time.perf_counter()
        try:
            failures = publish(messages)
        except Exception as error:
            failed = attributes | {ERROR_TYPE: error_type(error)}
            self._operation_duration.record(time.perf_counter() - started, failed)
            self._sent.add(len(messages), failed)
            raise
        seconds = time.perf_counter() - started
        if not failures:
            self._sent.add(len(messages), attributes)
            self._operation_duration.record(seconds, attributes)
            return failures
        for failure in failures:
            self._sent.add(1, attributes | {ERROR_TYPE: error_type(failure.error)})
        if len(failures) < len(messages):
            self._sent.add(len(messages) - len(failures), attributes)
        self._operation_duration.record(seconds, attributes | {ERROR_TYPE: error_type(failures[0].error)})
        return failures

    def around_poll(self, queue: Queue, poll: Callable[[], Sequence[Delivery]]) -> Sequence[Delivery]:
        """Count what was received, and measure the poll and the ages of the messages."""
        attributes = self._attributes("receive", queue)
        deliveries = _timed(poll, self._operation_duration, attributes)
        if deliveries:
            self._consumed.add(len(deliveries), attributes)
        oldest = 0.0
        now = self._clock.now()
        by_queue = self._attributes("process", queue)
        for delivery in deliveries:
            published_at = delivery.message.published_at
            if published_at is not None:
                # Clocks of two machines differ: a message is not younger than nothing.
                age = (now - published_at).total_seconds()
                age = max(age, 0.0)
                oldest = max(oldest, age)
                self._message_age.record(age, by_queue)
        self._lag.set(oldest, by_queue)
        return deliveries

    def around_delivery(self, delivery: Delivery, process: Callable[[], Outcome]) -> Outcome:
        """Measure the processing, by outcome."""
        started = time.perf_counter()
        try:
            outcome = process()
        except Exception as error:
            failed = self._attributes("process", delivery.queue) | {ERROR_TYPE: error_type(error)}
            self._process_duration.record(time.perf_counter() - started, failed)
            raise
        seconds = time.perf_counter() - started
        self._process_duration.record(seconds, self._of_delivery(delivery.queue, outcome))
        return outcome

    def around_listener(self, call: ListenerCall, run: Callable[[ListenerCall], Outcome]) -> Outcome:
        """Measure the run of a listener, and count its attempts when it has finished or given up a message."""
        started = time.perf_counter()
        outcome = run(call)
        with_outcome = self._of_listener(call, outcome)
        self._listener_duration.record(time.perf_counter() - started, with_outcome)
        if isinstance(outcome, (Acknowledge, DeadLetter)):
            self._attempts.record(call.attempt, with_outcome)
        return outcome

    def around_settle(
        self, queue: Queue, outcomes: Sequence[tuple[Delivery, Outcome]], settle: Callable[[], object]
    ) -> None:
        """Measure the settling, and count dead letters."""
        _timed(settle, self._operation_duration, self._attributes("settle", queue))
        for _, outcome in outcomes:
            if isinstance(outcome, DeadLetter):
                attributes: Attributes = {DESTINATION_NAME: queue.name}
                if outcome.listener_name is not None:
                    attributes[LISTENER_NAME] = outcome.listener_name
                if outcome.error is not None:
                    attributes[ERROR_TYPE] = error_type(outcome.error)
                self._dead_letters.add(1, attributes)

    def worker_started(self, worker: Worker) -> None:
        """Report the worker's health until it ends."""
        self._workers.add(worker)

    def relay_started(self, relay: OutboxRelay) -> None:
        """Report the outbox of the relay."""
        self._outboxes.add(relay.engine)

    def observe_outbox(self, engine: Engine) -> None:
        """Report the outbox in this database, in a process without a relay. The collecting thread asks the database."""
        self._outboxes.add(engine)

    def _of_delivery(self, queue: Queue, outcome: Outcome) -> Attributes:
        if not isinstance(outcome, Acknowledge):
            return _with_failure(self._attributes("process", queue), outcome)
        key = (queue.address, "", outcome.reason)
        if key not in self._of_successes:
            self._of_successes[key] = {**self._attributes("process", queue), OUTCOME: outcome.reason}
        return self._of_successes[key]

    def _of_listener(self, call: ListenerCall, outcome: Outcome) -> Attributes:
        queue, name = call.lease.delivery.queue, call.subscription.name
        if not isinstance(outcome, Acknowledge):
            return _with_failure({DESTINATION_NAME: queue.name, LISTENER_NAME: name}, outcome)
        key = (queue.address, name, outcome.reason)
        if key not in self._of_successes:
            self._of_successes[key] = {
                DESTINATION_NAME: queue.name,
                LISTENER_NAME: name,
                OUTCOME: outcome.reason,
            }
        return self._of_successes[key]

    def _attributes(self, operation: Operation, destination: Topic | Queue) -> Attributes:
        """Return the attributes of an operation; the caller must not change them."""
        key = (operation, destination.address)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = operation_attributes_of(operation, destination)
        return known


def _with_failure(attributes: Attributes, outcome: Outcome) -> Attributes:
    error = error_of(outcome)
    failed = {**attributes, OUTCOME: outcome_name(outcome)}
    return failed if error is None else {**failed, ERROR_TYPE: error_type(error)}


def _timed(call: Callable[[], Result], duration: Histogram, attributes: Attributes) -> Result:
    started = time.perf_counter()
    try:
        result = call()
    except Exception as error:
        duration.record(time.perf_counter() - started, attributes | {ERROR_TYPE: error_type(error)})
        raise
    duration.record(time.perf_counter() - started, attributes)
    return result
