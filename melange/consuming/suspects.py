"""Possible poison messages: each runs alone, so that it does not take other messages with it."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import TypeVar

from melange.consuming.leases import Lease
from melange.messages import Delivery

SUSPECT_RECEIVES = 3
"""A message that comes for the third time, and not because this process released it, may have killed two others."""

MOST_ISOLATED = 5
"""The number of suspects that a process isolates. If this many have survived, high receive counts have another reason, such
as an outage, and isolation would only delay all. After a kill the next process isolates again."""

_MOST_REMEMBERED = 10_000

Suspect = TypeVar("Suspect")


class Suspects:
    """Finds suspects among messages; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._released: dict[str, None] = {}
        self._left = MOST_ISOLATED

    def released(self, delivery: Delivery) -> None:
        """Note that this process released the message alive: its next receive has that reason."""
        with self._lock:
            self._released[delivery.message.message_id] = None
            if len(self._released) > _MOST_REMEMBERED:
                del self._released[next(iter(self._released))]

    def includes(self, delivery: Delivery) -> bool:
        """Return True if the message should be worked on alone."""
        return (
            delivery.receive_count >= SUSPECT_RECEIVES
            and self._left > 0
            and delivery.message.message_id not in self._released
        )

    def last_and_alone(self, leases: Sequence[Lease]) -> list[list[Lease]]:
        """Return what to settle together: suspects come last, each on its own."""
        suspects = [lease for lease in leases if self.includes(lease.delivery)]
        return [
            [lease for lease in leases if lease not in suspects],
            *([one] for one in shuffled(suspects)),
        ]

    def survived(self) -> None:
        """Note that a suspect did not kill the process."""
        self._left -= 1


def shuffled(suspects: Sequence[Suspect]) -> list[Suspect]:
    """Return the suspects in random order: the poison among them must not kill each process before the others ran."""
    return random.sample(suspects, len(suspects))
