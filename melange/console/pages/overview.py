"""The first page: topics, queues and bindings as a graph and as tables."""

from __future__ import annotations

from melange.console.charts import Chart, chart_of
from melange.console.graph import draw
from melange.console.visits import Page, Visit


def show(visit: Visit) -> Page:
    overview = visit.backend.overview()
    controls = visit.backend.controls
    return Page(
        "overview.html",
        {
            "overview": overview,
            "graph": draw(overview),
            "charts": {queue.arn: _depth_chart(visit, queue.arn) for queue in overview.queues},
            "faults": controls.faults() if controls else [],
        },
    )


def _depth_chart(visit: Visit, arn: str) -> Chart | None:
    samples = visit.history.of(arn)
    return chart_of(messages=[one.visible + one.in_flight + one.delayed for one in samples])
