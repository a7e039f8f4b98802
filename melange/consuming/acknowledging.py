"""Gathers acknowledgements into batches: ten, or what came within a few milliseconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from melange.consuming.leases import Lease

logger = logging.getLogger(__name__)

BATCH_SIZE = 10
GATHERING_SECONDS = 0.005


class Acknowledger:
    """Acknowledges finished deliveries of one queue in batches, on a thread of its own.

    ``acknowledge`` is called with at most ten at once. What waits here keeps its lease. Thread-safe.
    """

    def __init__(self, acknowledge: Callable[[list[Lease]], None], name: str) -> None:
        self._acknowledge = acknowledge
        self._changed = threading.Condition()
        self._finished: list[Lease] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"melange-acknowledge-{name}", daemon=True)

    def start(self) -> None:
        """Begin to acknowledge."""
        self._thread.start()

    def add(self, lease: Lease) -> None:
        """Acknowledge the delivery soon; its completion marks are stored."""
        with self._changed:
            self._finished.append(lease)
            if len(self._finished) in (1, BATCH_SIZE):  # the first begins the gathering, the tenth ends it
                self._changed.notify()

    def stop(self, timeout_seconds: float) -> bool:
        """Acknowledge what is there and end; return whether that was done in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._acknowledge(batch)
            except Exception:
                logger.exception(
                    "%d finished messages could not be acknowledged and will come back", len(batch)
                )

    def _next_batch(self) -> list[Lease]:
        with self._changed:
            self._changed.wait_for(lambda: self._finished or self._stopping)
            self._changed.wait_for(
                lambda: len(self._finished) >= BATCH_SIZE or self._stopping, timeout=GATHERING_SECONDS
            )
            batch = self._finished[:BATCH_SIZE]
            del self._finished[:BATCH_SIZE]
            return batch
