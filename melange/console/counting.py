"""Counts what happens to messages of each topic and queue of ``melange server``."""

from __future__ import annotations

from collections import Counter

from melange.console.backend import Traffic
from melange.server.broker import Event


class Counting:
    """An observer of a broker. Guarded by the broker's lock."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def __call__(self, event: Event) -> None:
        self._counts[event.arn, event.kind] += 1
        if event.kind == "dead-lettered":
            self._counts[event.other_arn, "sent"] += 1

    def of(self, arn: str) -> Traffic:
        """Return the counts of a topic or queue."""
        counts = self._counts
        return Traffic(
            counts[arn, "sent"] + counts[arn, "published"], counts[arn, "received"], counts[arn, "deleted"]
        )
