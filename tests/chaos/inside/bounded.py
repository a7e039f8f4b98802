"""One queue in memory, measured from the broker's side: in flight, leases, stops."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from chaos.inside.broker import CountingDriver
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, QueueOptions, RetryPolicy, Worker

CONCURRENCY = 10
BOUND = CONCURRENCY + 90
"""What ``Worker`` promises for this concurrency."""

GRACE_SECONDS = 10.0
VISIBILITY_TIMEOUT_SECONDS = 7
RETRY_SECONDS = 3.0
"""Not the visibility timeout: see ``CountingDriver``."""

UNBOUNDED = "no bound on what is in flight"


class DownstreamFailed(Exception):
    """What the listener needs is unavailable."""


class BoundedQueue:
    """Publishes numbered messages, and runs one worker after the other on them."""

    def __init__(self, name: str, *, acknowledge_seconds: float = 0, sabotage: str = "") -> None:
        self.driver = CountingDriver(
            renewal_seconds=VISIBILITY_TIMEOUT_SECONDS, acknowledge_seconds=acknowledge_seconds
        )
        self.is_downstream_available = True
        self.effects: defaultdict[str, list[int]] = defaultdict(list)
        self.wrong: list[str] = []
        self.longest_stop_seconds = 0.0
        self.leases_lost = 0
        self._name = name
        self._is_bounded = sabotage != UNBOUNDED
        self._consumer()
        self._publisher = ExchangeMessagePublisher(f"topic-{name}", self.driver)

    def publish(self, groups: int, each: int) -> None:
        """Publish ``each`` messages for each group: the first of all groups, then the second, and so on."""
        self._publisher.publish_batch(
            (
                {"event_type_name": "Job", "group": f"group-{group}", "number": number}
                for number in range(each)
                for group in range(groups)
            ),
            message_group_id=lambda event: event["group"] if self._name.endswith(".fifo") else None,  # type: ignore[index]
        )

    def work_while(self, goes_on: Callable[[], bool]) -> None:
        """Run a worker while the condition holds, stop it, and record what is wrong."""
        worker = Worker(
            self._consumer(), concurrency=CONCURRENCY, grace_seconds=GRACE_SECONDS, handle_signals=False
        )
        if not self._is_bounded:
            for queue_worker in worker._queue_workers:
                queue_worker.limit = 1_000_000
        worker.start()
        while goes_on():
            time.sleep(0.05)
        self._judge(worker)

    @property
    def left(self) -> int:
        """How many messages are in the queue."""
        depth = self.driver.measure_queue(self.driver.get_queue(self._name))
        return depth.visible + depth.in_flight + depth.delayed

    def out_of_order(self) -> list[str]:
        """Return the groups with effects that were not in the order of publishing."""
        return [group for group, numbers in self.effects.items() if numbers != sorted(numbers)]

    def _judge(self, worker: Worker) -> None:
        (health,) = worker.health().queues
        if self._is_bounded and health.limit != BOUND:
            self.wrong.append(f"health says that {health.limit} may be in flight instead of {BOUND}")
        began_at = time.monotonic()
        is_clean = worker.stop()
        stop_seconds = time.monotonic() - began_at
        self.longest_stop_seconds = max(self.longest_stop_seconds, stop_seconds)
        self.leases_lost += worker.health().queues[0].leases_lost
        if not is_clean or stop_seconds > GRACE_SECONDS + 1:
            self.wrong.append(f"a stop took {stop_seconds:.1f} s and left something behind: {not is_clean}")
        if self.driver.held:
            self.wrong.append(f"{self.driver.held} messages held after the stop")
        if self.driver.most_held > BOUND:
            self.wrong.append(f"in flight: {self.driver.most_held}, bound {BOUND}")
        if self.leases_lost or self.driver.taken_over:
            self.wrong.append(f"leases lost: {self.leases_lost}, taken over: {self.driver.taken_over}")

    def _consumer(self) -> ExchangeMessageConsumer:
        consumer = ExchangeMessageConsumer(
            self._name,
            f"topic-{self._name}",
            driver=self.driver,
            retry=RetryPolicy(backoff=lambda attempt: RETRY_SECONDS),
            queue=QueueOptions(visibility_timeout_seconds=VISIBILITY_TIMEOUT_SECONDS, wait_seconds=1),
        )

        @consumer.listener("Job", name="job")
        def job(event: Mapping[str, Any]) -> None:
            if not self.is_downstream_available:
                raise DownstreamFailed
            self.effects[event["group"]].append(event["number"])

        return consumer
