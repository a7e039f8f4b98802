"""The first page: topics, queues and bindings as a graph and as tables."""

from __future__ import annotations

from melange.console.visits import Page, Visit


def show(visit: Visit) -> Page:
    overview = visit.backend.overview()
    samples = {queue.arn: visit.history.of(queue.arn) for queue in overview.queues}
    return Page("overview.html", {"overview": overview, "samples": samples})
