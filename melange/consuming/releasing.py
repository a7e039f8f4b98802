"""Releasing: deliveries that were not finished here become visible again."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from melange.clock import Clock
from melange.consuming.leases import Lease
from melange.consuming.settling import Settler


class Releases:
    """Releases the deliveries of one queue of a worker. Thread-safe.

    After ``hold_back`` they are kept until ``release_all``: while the last poll is open, it would receive them again.
    ``stranded`` counts the deliveries that a stopping worker could not release.
    """

    def __init__(self, settler: Settler, clock: Clock) -> None:
        self.stranded = 0
        self._settler = settler
        self._clock = clock
        self._lock = threading.Lock()
        self._is_stopping = False
        self._held_back: list[tuple[Lease, float]] | None = None

    def release(self, leases: Sequence[Lease], delay_seconds: float) -> None:
        """Make the deliveries visible again after the delay."""
        if not leases:
            return
        if self._is_stopping:
            due = self._clock.monotonic() + delay_seconds
            with self._lock:
                if self._held_back is not None:
                    self._held_back.extend((lease, due) for lease in leases)
                    return
        self._defer([(lease, delay_seconds) for lease in leases])

    def hold_back(self) -> None:
        """Keep what is released from now on."""
        with self._lock:
            self._is_stopping, self._held_back = True, []

    def release_all(self, others: Sequence[tuple[Lease, float]]) -> None:
        """Release what was kept, and others, each at its time; nothing is kept from now on."""
        with self._lock:
            held_back, self._held_back = self._held_back or [], None
        now = self._clock.monotonic()
        self._defer([(lease, max(0.0, due - now)) for lease, due in (*held_back, *others)])

    def _defer(self, deferrals: list[tuple[Lease, float]]) -> None:
        stranded = len(deferrals) - self._settler.defer(deferrals)
        if self._is_stopping:
            with self._lock:
                self.stranded += stranded
