"""The first page: topics, queues and bindings as a graph and as tables."""

from __future__ import annotations

from melange.console.charts import Chart, chart_of
from melange.console.graph import draw
from melange.console.model import Overview, name_of
from melange.console.pages import Page, Visit

SEARCHED_FROM = 15
"""The number of topics and queues from which a search is offered."""

DRAWN = 60
"""The number of topics and queues up to which the graph is open at once."""


def show(visit: Visit) -> Page:
    everything = visit.backend.overview()
    text = visit.query.get("name", "").strip()
    overview = _found(everything, text) if text else everything
    number = len(everything.topics) + len(everything.queues)
    controls = visit.backend.controls
    return Page(
        "overview.html",
        {
            "overview": overview,
            "graph": draw(overview),
            "is_drawn": len(overview.topics) + len(overview.queues) <= DRAWN,
            "is_searched": bool(text) or number >= SEARCHED_FROM,
            "text": text,
            "charts": {queue.arn: _depth_chart(visit, queue.arn) for queue in overview.queues},
            "faults": controls.faults() if controls else [],
        },
    )


def _found(overview: Overview, text: str) -> Overview:
    """Return the topics and queues with ``text`` in their names, what is bound to them, and their dead-letter queues."""
    text = text.casefold()
    arns = {topic.arn for topic in overview.topics} | {queue.arn for queue in overview.queues}
    found = {arn for arn in arns if text in name_of(arn).casefold()}
    bindings = [one for one in overview.bindings if found & {one.topic_arn, one.endpoint}]
    found |= {one.topic_arn for one in bindings} | {one.endpoint for one in bindings}
    found |= {
        queue.dead_letter_arn for queue in overview.queues if queue.dead_letter_arn and queue.arn in found
    }
    return Overview(
        [topic for topic in overview.topics if topic.arn in found],
        [queue for queue in overview.queues if queue.arn in found],
        bindings,
    )


def _depth_chart(visit: Visit, arn: str) -> Chart | None:
    samples = visit.history.of(arn)
    return chart_of(messages=[one.visible + one.in_flight + one.delayed for one in samples])
