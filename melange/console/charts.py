"""Coordinates of small line charts, as templates draw them in SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from melange.console.depth_history import INTERVAL_SECONDS, SAMPLES

WIDTH = 300
HEIGHT = 40


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
