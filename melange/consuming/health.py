"""Whether a worker does its work, for probes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from melange.consuming.queue_runner import QueueRunner

LONGEST_SILENCE_SECONDS = 90.0
"""A poll takes 20 s at most; after several of those without an answer something is wrong."""


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """One queue of a worker. ``seconds_since_poll`` counts from the last answer, None before the first."""

    queue_name: str
    seconds_since_poll: float | None
    in_hand: int
    store_is_up: bool


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """A worker's state at one moment.

    It is ``ready`` while it runs, every queue was polled lately, and the deduplication stores are in reach:
    what an HTTP probe answers with 200. A busy worker that polls nothing because its slots are taken counts
    as ready.
    """

    ready: bool
    queues: Sequence[QueueHealth]


def health_of(runners: Sequence[QueueRunner], *, running: bool) -> WorkerHealth:
    """Return the health of a worker with these queues."""
    now = time.monotonic()
    queues = [
        QueueHealth(
            queue_name=runner.consumed.queue.name,
            seconds_since_poll=None if runner.last_poll_at is None else now - runner.last_poll_at,
            in_hand=runner.in_hand,
            store_is_up=runner.store_is_up,
        )
        for runner in runners
    ]
    return WorkerHealth(ready=running and all(map(_is_ready, queues)), queues=queues)


def _is_ready(queue: QueueHealth) -> bool:
    polls = queue.seconds_since_poll is not None and queue.seconds_since_poll <= LONGEST_SILENCE_SECONDS
    return queue.store_is_up and (polls or queue.in_hand > 0)
