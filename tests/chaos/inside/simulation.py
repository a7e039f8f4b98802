"""Two workers and a `consume_event` loop on one broker and one store, for simulated hours."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from chaos.checker import STORE_OUTAGE, Evidence, Expected, Fault
from chaos.inside.broker import CountingDriver
from chaos.inside.fast_clock import FastClock
from chaos.inside.store import CountingReceives, DisturbedStore
from chaos.journal import BEGAN, EFFECT, FAILED, Record
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, QueueOptions, RetryPolicy, Worker
from melange.errors import DeduplicationError
from melange.messages import Queue

STANDARD, FIFO, BATCH = "work", "orders.fifo", "batch"
LISTENER = "job"
MAX_ATTEMPTS = 5
WAIT_SECONDS = 10
COPIES = 0.05
RECEIVES_AS_ATTEMPTS = "receives counted as attempts"
PATIENCE_SECONDS = 30.0
SPARE_SECONDS = 5.0
"""Of the grace period, in real time: what a busy machine may need for more than the run and the outage."""
LONGEST_RUN = 1.5
"""In visibility timeouts."""
LONGEST_OUTAGE_SECONDS = 20.0
ALWAYS = 1_000_000


@dataclass(frozen=True)
class Planned:
    """A message: its queue, how long each run takes, how many runs fail first (``ALWAYS``: all)."""

    queue: str
    work_seconds: float
    failures: int = 0
    group: str | None = None
    number: int = 0


class JobFailed(Exception):
    """The event asks the listener to fail this time."""


class Simulation:
    """What happens to messages while the store fails and workers are replaced. Times are of the fast clock."""

    def __init__(
        self, seed: int, *, speed: float, visibility_timeout_seconds: int, sabotage: str = ""
    ) -> None:
        self.random = random.Random(f"attempts {seed}")
        self.clock = FastClock(speed)
        self.driver = CountingDriver(
            clock=self.clock, duplicates=COPIES, seed=seed, renewal_seconds=visibility_timeout_seconds
        )
        self.store = (
            CountingReceives(self.clock, str(seed), self.driver.receives)
            if sabotage == RECEIVES_AS_ATTEMPTS
            else DisturbedStore(self.clock, str(seed))
        )
        self.leases_lost = 0
        self.left_behind = 0
        self._options = QueueOptions(
            visibility_timeout_seconds=visibility_timeout_seconds, wait_seconds=WAIT_SECONDS
        )
        self._grace_seconds = (
            self.clock.real(LONGEST_RUN * visibility_timeout_seconds + LONGEST_OUTAGE_SECONDS) + SPARE_SECONDS
        )
        self._expected: list[Expected] = []
        self._records: list[Record] = []
        self._faults: list[Fault] = []
        self._runs: Counter[str] = Counter()
        self._publishers = {
            name: ExchangeMessagePublisher(_topic(name), self.driver) for name in (STANDARD, FIFO, BATCH)
        }
        self._workers: list[Worker] = []
        self._consumers = 0
        self._ending = threading.Event()
        self._loop = threading.Thread(target=self._consume_batches, args=(self._consumer(BATCH),))
        self._queues: list[Queue] = []

    # --- what happens ------------------------------------------------------------------------------

    def start(self, workers: int) -> None:
        """Start so many workers and the loop."""
        for _ in range(workers):
            self._workers.append(self._started())
        self._queues = [self.driver.get_queue(name) for name in (STANDARD, FIFO, BATCH)]
        self._loop.start()

    def publish(self, planned: Planned) -> None:
        """Publish one message."""
        message_id = f"m-{len(self._expected)}"
        self._expected.append(
            Expected(message_id, (LISTENER,), planned.group, planned.number, planned.failures == ALWAYS)
        )
        event = {
            "event_type_name": "Job",
            "work_seconds": planned.work_seconds,
            "failures": planned.failures,
        }
        self._publishers[planned.queue].publish(event, message_id=message_id, message_group_id=planned.group)

    def outage(self, seconds: float) -> None:
        """Make the store unavailable for some seconds; returns at once."""
        self.store.is_down.set()
        self._faults.append(Fault(STORE_OUTAGE, time.monotonic(), inf))
        # On a thread of its own: a deployment that is under way waits for the end of the outage.
        threading.Timer(self.clock.real(seconds), self._end_outage).start()

    def deploy(self, number: int) -> None:
        """Stop a worker gracefully and start its successor."""
        self._stop(self._workers[number])
        self._workers[number] = self._started()

    def finish(self) -> None:
        """Wait until nothing is left or nothing moves, and stop."""
        seen, still_since = -1, time.monotonic()
        while self.left() and time.monotonic() - still_since < PATIENCE_SECONDS:
            if len(self._records) != seen:
                seen, still_since = len(self._records), time.monotonic()
            time.sleep(0.05)
        self._ending.set()
        for worker in self._workers:
            self._stop(worker)
        self._loop.join(PATIENCE_SECONDS)
        self.left_behind += self._loop.is_alive()

    def left(self) -> int:
        """Return the number of messages in the queues."""
        depths = [self.driver.measure_queue(queue) for queue in self._queues]
        return sum(depth.visible + depth.in_flight + depth.delayed for depth in depths)

    def evidence(self) -> Evidence:
        """Return what is known at the end. A dead letter of fewer runs than there are attempts is not expected."""
        dead_letters = {message_id for queue in self._queues for message_id in self._dead_letters(queue)}
        expected = [
            one._replace(rejected=False) if self._runs[one.message_id] < MAX_ATTEMPTS else one
            for one in self._expected
        ]
        return Evidence(expected, sorted(self._records), dead_letters, self._faults, self.left())

    @property
    def most_receives(self) -> int:
        """The highest receive count of a message that was not to be dead-lettered."""
        return max(self.driver.receives[one.message_id] for one in self._expected if not one.rejected)

    # --- the rest is private -----------------------------------------------------------------------

    def _end_outage(self) -> None:
        self.store.is_down.clear()
        self._faults[-1] = self._faults[-1]._replace(ended_at=time.monotonic())

    def _started(self) -> Worker:
        worker = Worker(
            self._consumer(STANDARD),
            self._consumer(FIFO),
            grace_seconds=self._grace_seconds,
            handle_signals=False,
        )
        worker.start()
        return worker

    def _stop(self, worker: Worker) -> None:
        self.left_behind += not worker.stop()
        self.leases_lost += sum(queue.leases_lost for queue in worker.health().queues)

    def _consumer(self, queue: str) -> ExchangeMessageConsumer:
        """Return what a new process would have; it counts as one in the records."""
        consumer = ExchangeMessageConsumer(
            queue,
            _topic(queue),
            driver=self.driver,
            deduplication=self.store,
            retry=RetryPolicy(max_attempts=MAX_ATTEMPTS),
            queue=self._options,
        )
        self._consumers += 1
        process_number = self._consumers

        @consumer.listener("Job", name=LISTENER)
        def job(event: Mapping[str, Any], *, message_id: str) -> None:
            self._runs[message_id] += 1
            self._note(process_number, BEGAN, message_id)
            self.clock.sleep(event["work_seconds"])
            if self._runs[message_id] <= event["failures"]:
                self._note(process_number, FAILED, message_id)
                raise JobFailed
            self._note(process_number, EFFECT, message_id)

        return consumer

    def _note(self, process_number: int, kind: str, message_id: str) -> None:
        self._records.append(Record(time.monotonic(), process_number, kind, message_id, LISTENER))

    def _consume_batches(self, consumer: ExchangeMessageConsumer) -> None:
        while not self._ending.is_set():
            try:
                consumer.consume_event(WAIT_SECONDS)
            except DeduplicationError:
                self.clock.sleep(1)

    def _dead_letters(self, queue: Queue) -> Iterator[str]:
        assert queue.dead_letter_queue
        while deliveries := self.driver.receive(queue.dead_letter_queue, 10, 0):
            yield from (delivery.message.message_id for delivery in deliveries)
            self.driver.acknowledge(deliveries)


def _topic(queue: str) -> str:
    return f"topic-{queue}"
