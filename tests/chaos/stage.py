"""The queue and the workers of one run, and the faults."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos.broker import drained, driver_for, left_in
from chaos.checker import STORE_OUTAGE, Evidence, Expected, Fault
from chaos.processes import WorkerProcess
from chaos.scene import Scene, Services
from chaos.settings import Settings
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, PublishError, RetryPolicy


@dataclass(frozen=True)
class Job:
    """A message to publish: how long its listeners work, how often each fails first, whether they kill the process."""

    work_seconds: float = 0.0
    failures: Mapping[str, int] = field(default_factory=dict)
    group: str | None = None
    number: int = 0
    rejected: bool = False
    deadly: bool = False


class Stage(Scene):
    """One run of workers on a queue."""

    def __init__(
        self,
        services: Services,
        name: str,
        seed: int,
        *,
        endpoint_url: str | None = None,
        is_fifo: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(services, name, seed)
        self._expected: list[Expected] = []
        suffix = ".fifo" if is_fifo else ""
        self.settings = Settings(
            endpoint_url=endpoint_url or services.sns_sqs_url,
            redis_url=services.redis.url,
            topic=f"topic-{self._ids}{suffix}",
            queue=f"queue-{self._ids}{suffix}",
            journals=str(self._directory),
            **settings,
        )
        # The judge's own way to the broker is never disturbed; the publisher's is that of the workers.
        self._driver = self._opened.enter_context(driver_for(services.sns_sqs_url))
        publishing = self._opened.enter_context(driver_for(self.settings.endpoint_url))
        self.queue = ExchangeMessageConsumer(
            self.settings.queue,
            self.settings.topic,
            driver=self._driver,
            retry=RetryPolicy(max_attempts=self.settings.max_attempts),
        ).queue
        self._publisher = ExchangeMessagePublisher(self.settings.topic, publishing)

    # --- work --------------------------------------------------------------------------------------

    def publish(self, jobs: Iterable[Job], *, copies: int = 1) -> None:
        """Publish the jobs, ``copies`` times under the same id; what is not accepted is published again."""
        events = [self._event(job) for job in jobs]
        for _ in range(copies):
            self._publish(events)

    def _event(self, job: Job) -> dict[str, Any]:
        message_id = f"{self._ids}-{len(self._expected)}"
        self._expected.append(
            Expected(message_id, self.settings.listeners, job.group, job.number, job.rejected)
        )
        return {
            "event_type_name": "Job",
            "id": message_id,
            "group": job.group,
            "work_seconds": job.work_seconds,
            "failures": dict(job.failures),
            "deadly": job.deadly,
        }

    def _publish(self, events: list[dict[str, Any]]) -> None:
        while events:
            try:
                self._publisher.publish_batch(
                    events,
                    message_id=lambda event: event["id"],  # type: ignore[index]
                    message_group_id=lambda event: event["group"],  # type: ignore[index]
                )
            except PublishError as error:
                failed = {failure.item.message_id for failure in error.failures}
                events = [event for event in events if event["id"] in failed]
            else:
                return

    def left(self) -> int:
        """Return the number of messages in the queue, invisible ones included."""
        return left_in(self._driver, self.queue)

    def in_flight(self) -> int:
        """Return the number of invisible messages."""
        return self._driver.measure_queue(self.queue).in_flight

    def wait_until_empty(self) -> None:
        """Wait until nothing is left in the queue, or nothing moves for half a minute."""
        self.wait_until_none(self.left, "messages")

    # --- workers and faults ------------------------------------------------------------------------

    def start_worker(self, fail_point: str = "") -> WorkerProcess:
        """Start one more worker."""
        return self.start("chaos.application", self.settings, fail_point)

    def start_workers(self, count: int) -> None:
        """Start workers and wait until all of them poll."""
        started = [self.start_worker() for _ in range(count)]
        self.wait_for(lambda: all(worker.has_polled() for worker in started), "workers to poll")

    def a_worker_at_work(self) -> WorkerProcess:
        """Return one of the workers that poll, by chance; wait for one if there is none."""
        self.wait_for(lambda: any(worker.has_polled() for worker in self.workers), "a worker to poll")
        return self.random.choice([worker for worker in self.workers if worker.has_polled()])

    def stall_redis(self, seconds: float) -> Fault:
        """Pause Redis for some seconds; return when it was unavailable."""
        began_at = time.monotonic()
        self._services.redis.stall()
        time.sleep(seconds)
        ended_at = time.monotonic()
        self._services.redis.resume()
        fault = Fault(STORE_OUTAGE, began_at, ended_at)
        self.faults.append(fault)
        return fault

    def restart_redis(self, away_seconds: float) -> Fault:
        """Kill Redis, which loses its data, and start it after some seconds; return when it was unavailable."""
        began_at = time.monotonic()
        self._services.redis.kill()
        killed_at = time.monotonic()
        time.sleep(away_seconds)
        back_from = time.monotonic()
        self._services.redis.start()
        self.faults.append(Fault(STORE_OUTAGE, began_at, time.monotonic()))
        return Fault(STORE_OUTAGE, killed_at, back_from)

    # --- evidence ----------------------------------------------------------------------------------

    def evidence(self, *, one_copy_each: bool = True) -> Evidence:
        """Collect what is known; the workers have to be stopped."""
        return Evidence(
            expected=self._expected,
            records=self.records(),
            dead_letters=self._dead_letters(),
            faults=self.faults,
            left=self.left(),
            one_copy_each=one_copy_each,
        )

    def _dead_letters(self) -> set[str]:
        assert self.queue.dead_letter_queue
        return set(drained(self._driver, self.queue.dead_letter_queue))
