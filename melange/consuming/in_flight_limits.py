"""How many deliveries of each queue a worker has in flight, and how its queues share the threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from melange.errors import ConfigurationError, nearest

AHEAD = 30
"""The least number of deliveries in flight beyond those being processed: ten that wait, ten being received, ten being
settled."""


def in_flight_limit(size: int) -> int:
    """Return the most deliveries of one queue in flight in a worker with so many threads: received and not yet settled,
    waiting retries included.
    """
    return size + max(AHEAD, size)


class QueuePart(NamedTuple):
    """One queue's part of a worker.

    ``limit`` is the most deliveries in flight. ``share`` is the most of them that run at once while the worker is slow: the
    threads beyond it are kept free for the other queues. ``kept`` is the number that it can always have at work or waiting
    for a thread, however many deliveries the other queues have received ahead.
    """

    limit: int
    share: int
    kept: int


def parts_of(queue_names: Sequence[str], size: int, weights: Mapping[str, int] | None) -> list[QueuePart]:
    """Return the part of each queue of a worker with ``size`` threads.

    Without weights each queue may use all threads but one for each other queue. With weights, the threads are kept in
    proportion to them, and so are the deliveries in flight.

    Raises:
        ConfigurationError: a weight is out of bounds, or for no queue of the worker.
    """
    limit = in_flight_limit(size)
    if weights is None:
        return [QueuePart(limit, size - len(queue_names) + 1, 1)] * len(queue_names)
    _check(queue_names, weights)
    of_each = [weights.get(name, 1) for name in queue_names]
    total, largest = sum(of_each), max(of_each)
    kept = [max(1, size * weight // total) for weight in of_each]
    return [
        QueuePart(
            limit=max(1, limit * weight // largest),
            share=max(1, size - sum(kept) + own),
            kept=own,
        )
        for weight, own in zip(of_each, kept, strict=True)
    ]


def _check(queue_names: Sequence[str], weights: Mapping[str, int]) -> None:
    if not isinstance(weights, Mapping):
        raise ConfigurationError(f"weights= takes a dict of numbers by queue names, not {weights!r}")
    for name, weight in weights.items():
        if name not in queue_names:
            raise ConfigurationError(
                f"weights= names queue {name!r}, which this worker does not have{nearest(name, queue_names)}"
            )
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= 1_000:
            raise ConfigurationError(
                f"the weight of queue {name!r} must be a whole number from 1 to 1,000, not {weight!r}"
            )
