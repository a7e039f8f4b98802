"""Charts of queues and topics over the last minutes: their depths and rates are sampled, and become lines in SVG.

Sampling begins with the first look at a page.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from melange.console.backend import Backend
from melange.console.model import Overview, Queue, Topic, Traffic

logger = logging.getLogger(__name__)

WIDTH = 300
HEIGHT = 40

INTERVAL_SECONDS = 2.0
SAMPLES = 150
"""Five minutes."""

_IDLE_SECONDS = 600.0
_MOST_LOAD = 0.05
"""The share of its time that the broker may spend on samples."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A queue or topic at one moment: its depths, and messages per second since the sample before."""

    visible: int = 0
    in_flight: int = 0
    delayed: int = 0
    arriving: float = 0
    receiving: float = 0
    deleting: float = 0


class QueueHistory:
    """Samples the queues in a thread of its own while pages are looked at. Thread-safe."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._samples: dict[str, deque[Sample]] = {}
        self._counts: dict[str, Traffic] = {}
        self._sampled_at = 0.0
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._last_look = 0.0
        self._thread: threading.Thread | None = None

    def of(self, arn: str) -> list[Sample]:
        """Return the samples of a queue or topic, the oldest first."""
        self._look()
        with self._lock:
            return list(self._samples.get(arn, ()))

    def add(self, overview: Overview, at: float) -> None:
        """Keep a sample of each queue and topic, taken at a time in seconds, and forget those that are gone."""
        with self._lock:
            seconds, self._sampled_at = at - self._sampled_at, at
            found: list[Queue | Topic] = [*overview.queues, *overview.topics]
            for arn in self._samples.keys() - {one.arn for one in found}:
                del self._samples[arn]
                self._counts.pop(arn, None)
            for one in found:
                traffic = one.traffic or Traffic()
                sample = _sample_of(one, traffic, self._counts.get(one.arn, traffic), seconds)
                self._counts[one.arn] = traffic
                self._samples.setdefault(one.arn, deque(maxlen=SAMPLES)).append(sample)

    def close(self) -> None:
        """End sampling. Idempotent."""
        self._is_closed.set()

    def _look(self) -> None:
        with self._lock:
            self._last_look = time.monotonic()
            if self._thread is not None or self._is_closed.is_set():
                return
            self._thread = threading.Thread(target=self._keep_sampling, name="melange-console", daemon=True)
        self._thread.start()

    def _keep_sampling(self) -> None:
        pause = 0.0
        while not self._is_closed.wait(pause):
            with self._lock:
                if time.monotonic() - self._last_look > _IDLE_SECONDS:
                    self._thread = None
                    self._samples.clear()
                    return
            began = time.monotonic()
            try:
                self.add(self._backend.overview(), began)
            except Exception:
                logger.warning("the console could not sample the queues", exc_info=True)
            pause = max(INTERVAL_SECONDS, (time.monotonic() - began) / _MOST_LOAD)


def _sample_of(one: Queue | Topic, now: Traffic, before: Traffic, seconds: float) -> Sample:
    rates = [
        (now.arrived - before.arrived) / seconds,
        (now.received - before.received) / seconds,
        (now.deleted - before.deleted) / seconds,
    ]
    if isinstance(one, Topic):
        return Sample(0, 0, 0, *rates)
    return Sample(one.visible, one.in_flight, one.delayed, *rates)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: what it shows, its newest value, and its points for ``<polyline>``."""

    name: str
    value: float
    points: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines with a common scale from 0 to ``highest``; ``minutes`` is the time that the whole width stands for."""

    lines: Sequence[Line]
    highest: float
    minutes: float = INTERVAL_SECONDS * SAMPLES / 60

    @property
    def description(self) -> str:
        """The chart in words, for readers without a picture."""
        values = ", ".join(f"{line.name} {line.value:.3g}" for line in self.lines)
        return f"last {self.minutes:g} minutes, at most {self.highest:.3g}; now {values}"


def chart_of(**values: Sequence[float]) -> Chart | None:
    """Return the chart of some series by their names, the newest value last; None with less than two values."""
    if min(map(len, values.values())) < 2:
        return None
    highest = max(max(series) for series in values.values())
    return Chart([_line(name, series, highest or 1) for name, series in values.items()], highest)


def _line(name: str, series: Sequence[float], highest: float) -> Line:
    step = WIDTH / (SAMPLES - 1)
    first = WIDTH - step * (len(series) - 1)  # the newest value is at the right edge
    points = (
        f"{first + step * place:.1f},{HEIGHT - 1 - value / highest * (HEIGHT - 2):.1f}"
        for place, value in enumerate(series)
    )
    return Line(name, series[-1], " ".join(points))
