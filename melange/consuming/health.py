"""The health of a worker: if it is ready, and how each of its queues does. ``melange.cli.probes`` answers probes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from melange.consuming.gates import FlowState
from melange.consuming.queue_worker import QueueWorker
from melange.consuming.threads import Threads

LONGEST_SILENCE_SECONDS = 90.0
"""A poll takes 20 s at most; after several of those without an answer something is wrong."""


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """One queue of a worker.

    ``seconds_since_poll`` counts from the last answer of the broker, ``seconds_since_settled`` from the last delivery
    that was finished here; None before the first. ``in_flight`` is received and not yet settled, at most ``limit``.
    ``unhandled`` counts messages that no listener accepted, ``timed_out`` runs beyond their time limit, ``leases_lost``
    leases that could not be renewed in time. ``flow`` is ``"paused"``, ``"limited"`` by a rate, ``"broken"`` or
    ``"probing"`` by a circuit breaker; ``"open"`` otherwise.
    """

    queue_name: str
    seconds_since_poll: float | None
    seconds_since_settled: float | None
    in_flight: int
    limit: int
    store_is_available: bool
    unhandled: int
    timed_out: int
    leases_lost: int
    flow: FlowState = "open"


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """A worker's state at one moment.

    It is ``ready`` while it runs, the deduplication stores are available, and every queue was polled, or had a delivery
    finished, within the last 90 seconds: what an HTTP probe answers with 200. A worker is not ready while all its
    listeners hang. ``longest_run_seconds`` is how long the oldest run at work takes.
    """

    ready: bool
    queues: Sequence[QueueHealth]
    longest_run_seconds: float


def health_of(queue_workers: Sequence[QueueWorker], threads: Threads, *, running: bool) -> WorkerHealth:
    """Return the health of a worker with these queues."""
    queues = [
        QueueHealth(
            queue_name=one.consumer.queue.name,
            seconds_since_poll=_since(one.poller.last_poll_at, one),
            seconds_since_settled=_since(one.last_settled_at, one),
            in_flight=one.in_flight,
            limit=one.limit,
            store_is_available=one.poller.store_is_available,
            unhandled=one.consumer.processor.unhandled_count,
            timed_out=one.consumer.processor.failures.timed_out_count,
            leases_lost=one.leases_lost,
            flow=one.consumer.gates.state,
        )
        for one in queue_workers
    ]
    return WorkerHealth(
        ready=running and all(map(_is_ready, queues)),
        queues=queues,
        longest_run_seconds=threads.longest_run_seconds,
    )


def _since(moment: float | None, queue_worker: QueueWorker) -> float | None:
    return None if moment is None else queue_worker.consumer.driver.clock.monotonic() - moment


def _is_ready(queue: QueueHealth) -> bool:
    signs_of_life = (queue.seconds_since_poll, queue.seconds_since_settled)
    return queue.store_is_available and any(
        seconds is not None and seconds <= LONGEST_SILENCE_SECONDS for seconds in signs_of_life
    )
