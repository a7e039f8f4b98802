"""The graph of topics, queues and dead-letter queues: places and lines in three columns, as a template draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from melange.console.model import Overview, Queue, name_of

NODE_WIDTH = 236
NODE_HEIGHT = 46
_COLUMN = 352
_ROW = 62
_MARGIN = 8
_NAME_CHARACTERS = 25

Kind = Literal["topic", "queue", "dead letters", "endpoint"]


@dataclass(frozen=True, slots=True)
class Node:
    """A topic, queue or other endpoint, with its place. ``path`` is its page, "" if it has none."""

    arn: str
    kind: Kind
    path: str
    x: float
    y: float
    note: str

    @property
    def name(self) -> str:
        return name_of(self.arn)

    @property
    def short_name(self) -> str:
        name = self.name
        return name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 9]}…{name[-8:]}"


@dataclass(frozen=True, slots=True)
class Edge:
    """A line from one node to another. ``kind`` is that of the binding; ``text`` describes it."""

    kind: Literal["all", "filtered", "broken", "dead letters"]
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes and edges with the size of the drawing."""

    nodes: Sequence[Node]
    edges: Sequence[Edge]
    width: float
    height: float


def draw(overview: Overview) -> Graph:
    """Return the graph of what a broker has."""
    columns = _columns(overview)
    notes = {queue.arn: _depths(queue) for queue in overview.queues} | {
        topic.arn: "FIFO topic" if topic.is_fifo else "topic" for topic in overview.topics
    }
    nodes: dict[str, Node] = {}
    for place, column in enumerate(columns):
        x = _MARGIN + place * _COLUMN
        for row, (arn, kind) in enumerate(column):
            path = "" if kind == "endpoint" else f"{'topics' if kind == 'topic' else 'queues'}/{arn}"
            nodes[arn] = Node(arn, kind, path, x, _MARGIN + row * _ROW, notes.get(arn, "endpoint"))
    used = max((place for place, column in enumerate(columns) if column), default=0)
    return Graph(
        list(nodes.values()),
        _edges(overview, nodes),
        2 * _MARGIN + used * _COLUMN + NODE_WIDTH,
        2 * _MARGIN + max(map(len, columns)) * _ROW - (_ROW - NODE_HEIGHT),
    )


def _columns(overview: Overview) -> list[list[tuple[str, Kind]]]:
    topics = [topic.arn for topic in overview.topics]
    rank: Mapping[str, int] = {arn: place for place, arn in enumerate(topics)}
    feeding: dict[str, list[int]] = {}
    for binding in overview.bindings:
        feeding.setdefault(binding.endpoint, []).append(rank.get(binding.topic_arn, 0))

    def place(arn: str) -> tuple[float, str]:
        ranks = feeding.get(arn)
        return (sum(ranks) / len(ranks) if ranks else len(topics), name_of(arn))

    dead = {queue.arn for queue in overview.queues if queue.holds_dead_letters and queue.arn not in feeding}
    known = {queue.arn for queue in overview.queues}
    endpoints = [arn for arn in feeding if arn not in known]
    middle = sorted([*(known - dead), *endpoints], key=place)
    row = {arn: number for number, arn in enumerate(middle)}
    sources = {queue.arn: queue.source_arns for queue in overview.queues}
    right = sorted(
        dead,
        key=lambda arn: (
            min((row.get(one, len(row)) for one in sources[arn]), default=len(row)),
            name_of(arn),
        ),
    )
    return [
        [(arn, "topic") for arn in topics],
        [(arn, "queue" if arn in known else "endpoint") for arn in middle],
        [(arn, "dead letters") for arn in right],
    ]


def _edges(overview: Overview, nodes: Mapping[str, Node]) -> list[Edge]:
    edges = []
    for binding in overview.bindings:
        start, end = nodes.get(binding.topic_arn), nodes.get(binding.endpoint)
        if start and end:
            kind: Literal["all", "filtered", "broken"] = "all"
            if binding.problem:
                kind = "broken"
            elif binding.filter_policy:
                kind = "filtered"
            note = binding.problem or ("filtered" if kind == "filtered" else "all messages")
            text = f"{start.name} to {end.name}: {note}"
            edges.append(Edge(kind, _curve(start, end), text))
    for queue in overview.queues:
        start, end = nodes.get(queue.arn), nodes.get(queue.dead_letter_arn or "")
        if start and end:
            text = f"dead letters of {start.name} to {end.name} after {queue.max_receive_count} receives"
            edges.append(Edge("dead letters", _curve(start, end), text))
    return edges


def _curve(start: Node, end: Node) -> str:
    y1, y2 = start.y + NODE_HEIGHT / 2, end.y + NODE_HEIGHT / 2
    x1 = start.x + NODE_WIDTH
    if end.x <= start.x:  # within a column: around the right side
        bend, x2 = x1 + 40, end.x + NODE_WIDTH
        return f"M{x1:g} {y1:g}C{bend:g} {y1:g} {bend:g} {y2:g} {x2:g} {y2:g}"
    middle = (x1 + end.x) / 2
    return f"M{x1:g} {y1:g}C{middle:g} {y1:g} {middle:g} {y2:g} {end.x:g} {y2:g}"


def _depths(queue: Queue) -> str:
    if not queue.total:
        return "empty"
    parts = [(queue.visible, "visible"), (queue.in_flight, "in flight"), (queue.delayed, "delayed")]
    return " · ".join(f"{number:,} {name}" for number, name in parts if number)
