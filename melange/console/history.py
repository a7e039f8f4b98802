"""Depths of queues over the last minutes, for charts. Sampling begins with the first look at a page."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

from melange.console.backend import Backend, Overview

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 2.0
SAMPLES = 150
"""Five minutes."""

_IDLE_SECONDS = 600.0
_MOST_LOAD = 0.05
"""The share of its time that the broker may spend on samples."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The depths of a queue at one moment."""

    visible: int
    in_flight: int
    delayed: int


class History:
    """Samples the queues in a thread of its own while pages are looked at. Thread-safe."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._samples: dict[str, deque[Sample]] = {}
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._last_look = 0.0
        self._thread: threading.Thread | None = None

    def of(self, queue_arn: str) -> list[Sample]:
        """Return the samples of a queue, the oldest first."""
        self._look()
        with self._lock:
            return list(self._samples.get(queue_arn, ()))

    def add(self, overview: Overview) -> None:
        """Keep a sample of each queue, and forget the queues that are gone."""
        with self._lock:
            found = {queue.arn for queue in overview.queues}
            for arn in [arn for arn in self._samples if arn not in found]:
                del self._samples[arn]
            for queue in overview.queues:
                samples = self._samples.setdefault(queue.arn, deque(maxlen=SAMPLES))
                samples.append(Sample(queue.visible, queue.in_flight, queue.delayed))

    def close(self) -> None:
        """End sampling. Idempotent."""
        self._is_closed.set()

    def _look(self) -> None:
        with self._lock:
            self._last_look = time.monotonic()
            if self._thread is not None or self._is_closed.is_set():
                return
            self._thread = threading.Thread(target=self._sample, name="melange-console", daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        pause = 0.0
        while not self._is_closed.wait(pause):
            with self._lock:
                if time.monotonic() - self._last_look > _IDLE_SECONDS:
                    self._thread = None
                    self._samples.clear()
                    return
            began = time.monotonic()
            try:
                self.add(self._backend.overview())
            except Exception:
                logger.warning("the console could not sample the queues", exc_info=True)
            pause = max(INTERVAL_SECONDS, (time.monotonic() - began) / _MOST_LOAD)
