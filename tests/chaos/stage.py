"""Where a run takes place: its queue, its workers, and what is done to them."""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from chaos.checker import KILL, PAUSE, STORE_OUTAGE, Evidence, Expected, Fault
from chaos.journal import Record, read_journals
from chaos.processes import WorkerProcess
from chaos.settings import Settings
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, PublishError
from melange.drivers.aws import AwsDriver
from melange.failpoints import EXIT_CODE

if TYPE_CHECKING:
    from services.redis import RedisServer

LOOK_EVERY_SECONDS = 0.05
START_SECONDS = 60.0
PATIENCE_SECONDS = 30.0
LOG_TAIL_CHARACTERS = 4_000


@dataclass(frozen=True)
class Services:
    """The servers that all runs share, and where progress is told."""

    sns_sqs_url: str
    redis: RedisServer
    tell: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Job:
    """A message to publish: how long its listeners work, and how often each fails first."""

    work_seconds: float = 0.0
    failures: Mapping[str, int] = field(default_factory=dict)
    group: str | None = None
    number: int = 0
    rejected: bool = False


class Stage:
    """One run. Leaving it kills what is left of its workers."""

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
        self.random = random.Random(f"{name} {seed}")
        self.faults: list[Fault] = []
        self._services = services
        self._name = name
        self._ids = f"{name}-{uuid4().hex[:8]}".replace(" ", "-")
        self._expected: list[Expected] = []
        self._workers: list[WorkerProcess] = []
        self._opened = ExitStack()
        suffix = ".fifo" if is_fifo else ""
        self._directory = Path(
            self._opened.enter_context(tempfile.TemporaryDirectory(prefix="melange-chaos-"))
        )
        self.settings = Settings(
            endpoint_url=endpoint_url or services.sns_sqs_url,
            redis_url=services.redis.url,
            topic=f"topic-{self._ids}{suffix}",
            queue=f"queue-{self._ids}{suffix}",
            journals=str(self._directory),
            **settings,
        )
        # The judge's own way to the broker is never disturbed; the publisher's is that of the workers.
        self._driver = self._opened.enter_context(_driver(services.sns_sqs_url))
        publishing = self._opened.enter_context(_driver(self.settings.endpoint_url))
        self.queue = ExchangeMessageConsumer(
            self.settings.queue,
            self.settings.topic,
            driver=self._driver,
            max_attempts=self.settings.max_attempts,
        ).queue
        self._publisher = ExchangeMessagePublisher(self.settings.topic, publishing)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            if worker.is_alive():
                worker.send(signal.SIGKILL)
                worker.wait()
        self._opened.close()

    def tell(self, text: str) -> None:
        """Tell how far the run has come."""
        self._services.tell(f"{self._name}: {text}")

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
        """Return how many messages are in the queue, seen or unseen."""
        depth = self._driver.measure_queue(self.queue)
        return depth.visible + depth.in_flight + depth.delayed

    def in_flight(self) -> int:
        """Return how many messages are hidden from receivers."""
        return self._driver.measure_queue(self.queue).in_flight

    def wait_until_empty(self) -> None:
        """Wait until nothing is left in the queue, or nothing has moved for a long while."""
        seen, still_since = (-1, -1), time.monotonic()
        while left := self.left():
            self.tell(f"{left:,} messages left")
            now = (left, sum(path.stat().st_size for path in self._directory.glob("*.journal")))
            if now != seen:
                seen, still_since = now, time.monotonic()
            elif time.monotonic() - still_since > PATIENCE_SECONDS:
                return
            time.sleep(4 * LOOK_EVERY_SECONDS)

    # --- workers and faults ------------------------------------------------------------------------

    @property
    def workers(self) -> list[WorkerProcess]:
        """The workers that are alive."""
        return [worker for worker in self._workers if worker.is_alive()]

    def start_worker(self, fail_point: str = "") -> WorkerProcess:
        """Start one more worker."""
        worker = WorkerProcess(self.settings, self._directory / "log", fail_point)
        self._workers.append(worker)
        return worker

    def start_workers(self, count: int) -> None:
        """Start workers and wait until all of them poll."""
        started = [self.start_worker() for _ in range(count)]
        self.wait_for(lambda: all(worker.has_polled() for worker in started), "workers to poll")

    def a_worker_at_work(self) -> WorkerProcess:
        """Return one of the workers that poll, by chance; wait for one if there is none."""
        self.wait_for(lambda: any(worker.has_polled() for worker in self.workers), "a worker to poll")
        return self.random.choice([worker for worker in self.workers if worker.has_polled()])

    def let_pass(self, least_seconds: float, most_seconds: float) -> None:
        """Let some time pass until the next fault, by chance."""
        time.sleep(self.random.uniform(least_seconds, most_seconds))

    def kill(self, worker: WorkerProcess) -> None:
        """Kill a worker without warning."""
        began_at = time.monotonic()
        worker.send(signal.SIGKILL)
        worker.wait()
        self.faults.append(Fault(KILL, began_at, inf, worker.pid))

    @contextmanager
    def paused(self, worker: WorkerProcess) -> Iterator[None]:
        """Stop a worker in mid-air, and let it go on after the block."""
        began_at = time.monotonic()
        worker.send(signal.SIGSTOP)
        try:
            yield
        finally:
            worker.send(signal.SIGCONT)
            self.faults.append(Fault(PAUSE, began_at, time.monotonic(), worker.pid))

    def await_death(self, worker: WorkerProcess) -> bool:
        """Wait for a worker to die at its fail point; return whether that is what ended it."""
        exit_code = worker.wait()
        last = max((record.at for record in self.records() if record.pid == worker.pid), default=0.0)
        self.faults.append(Fault(KILL, last, inf, worker.pid))
        return exit_code == EXIT_CODE

    def stall_redis(self, seconds: float) -> Fault:
        """Stop Redis in mid-air for a while; return when it was away."""
        began_at = time.monotonic()
        self._services.redis.stall()
        time.sleep(seconds)
        ended_at = time.monotonic()
        self._services.redis.resume()
        fault = Fault(STORE_OUTAGE, began_at, ended_at)
        self.faults.append(fault)
        return fault

    def restart_redis(self, away_seconds: float) -> Fault:
        """Kill Redis, which forgets everything, and start it after a while; return when it was away."""
        began_at = time.monotonic()
        self._services.redis.kill()
        killed_at = time.monotonic()
        time.sleep(away_seconds)
        back_from = time.monotonic()
        self._services.redis.start()
        self.faults.append(Fault(STORE_OUTAGE, began_at, time.monotonic()))
        return Fault(STORE_OUTAGE, killed_at, back_from)

    def stop_workers(self) -> list[int]:
        """Stop all workers by SIGTERM; return their exit codes."""
        stopping = self.workers
        for worker in stopping:
            worker.send(signal.SIGTERM)
        return [worker.wait() for worker in stopping]

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds.

        Raises:
            TimeoutError: it did not, in a minute.
        """
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._name}: waited in vain for {what}\n{self.log_tail()}")
            time.sleep(LOOK_EVERY_SECONDS)

    # --- evidence ----------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """Return what the workers have written down so far."""
        return read_journals(self._directory)

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

    def log_tail(self) -> str:
        """Return the end of what the workers have logged."""
        log = self._directory / "log"
        return log.read_text()[-LOG_TAIL_CHARACTERS:] if log.exists() else ""

    def _dead_letters(self) -> set[str]:
        assert self.queue.dead_letter_queue
        found: set[str] = set()
        while deliveries := self._driver.receive(self.queue.dead_letter_queue, 10, 0):
            found.update(delivery.message.message_id for delivery in deliveries)
            self._driver.acknowledge(deliveries)
        return found


def _driver(endpoint_url: str) -> AwsDriver:
    return AwsDriver(endpoint_url=endpoint_url, region_name="us-east-1")
