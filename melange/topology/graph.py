"""The topology as a diagram: Mermaid's text, and pictures of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from melange.errors import ConfigurationError
from melange.topology.model import DeclaredBinding, DeclaredQueue, Topology, plain_name

if TYPE_CHECKING:
    from mermaidx import Diagram

_MOST_NAMES = 3
"""Of the event types on an arrow; the rest is counted."""


def to_mermaid(topology: Topology) -> str:
    """Return a flowchart in Mermaid's language: publishers, topics, queues with their dead letters, listeners."""
    return "\n".join(["flowchart LR", *(f"    {line}" for line in _lines(topology))]) + "\n"


def to_picture(topology: Topology, picture: Literal["svg", "png"]) -> bytes:
    """Return the flowchart as a picture. It takes about a second, and needs the extra ``melange[graph]``.

    Raises:
        ConfigurationError: the package mermaidx is not installed.
    """
    diagram = _rendered(to_mermaid(topology))
    return diagram.svg().encode() if picture == "svg" else bytes(diagram.png())


def _rendered(text: str) -> Diagram:
    try:
        import mermaidx  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise ConfigurationError(
            "pictures need mermaidx: pip install '.[graph]' in a checkout of melange, or take --format mermaid"
        ) from error
    return mermaidx.render(text)


def _lines(topology: Topology) -> Iterator[str]:
    topics = {topic.name: f"t{number}" for number, topic in enumerate(topology.topics)}
    queues = {queue.name: f"q{number}" for number, queue in enumerate(topology.queues)}
    for topic in topology.topics:
        yield f"{topics[topic.name]}([{_quoted(f'topic {plain_name(topic.name)}')}])"
    for queue in topology.queues:
        yield f"{queues[queue.name]}[[{_quoted(f'queue {plain_name(queue.name)}')}]]"
    yield from _publishers(topology, topics, queues)
    for queue in topology.queues:
        for binding in queue.bindings:
            yield f"{topics[binding.topic]} --{_label(_filter_label(binding))}> {queues[queue.name]}"
        if queue.dead_letter_queue is not None:
            yield f"{queues[queue.name]} -.{_label('dead letters', dotted=True)}> {queues[queue.dead_letter_queue]}"
        yield from _listeners(queue, queues[queue.name])


def _publishers(topology: Topology, topics: dict[str, str], queues: dict[str, str]) -> Iterator[str]:
    for number, one in enumerate(topology.publishers):
        target = topics.get(one.target) or queues.get(one.target)
        if target is None:  # a queue that another program declares
            target = f"x{number}"
            yield f"{target}[[{_quoted(f'queue {plain_name(one.target)}')}]]"
        name = "outbox" if one.through == "outbox" else "publisher"
        yield f"p{number}({_quoted(name)}) --{_label(_some(one.event_types or ()))}> {target}"


def _listeners(queue: DeclaredQueue, node: str) -> Iterator[str]:
    for number, listener in enumerate(queue.listeners):
        types = _some(listener.event_types) or "all"
        yield f"{node} --{_label(types)}> {node}l{number}({_quoted(f'listener {listener.name}')})"


def _filter_label(binding: DeclaredBinding) -> str:
    return _some(binding.event_filter.event_type_names) if binding.event_filter else ""


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _label(text: str, *, dotted: bool = False) -> str:
    """Return the middle of an arrow with a text on it."""
    end = ".-" if dotted else "--"
    return f" {_quoted(text)} {end}" if text else ""


def _quoted(text: str) -> str:
    # Mermaid's way to write what would end the text or begin HTML.
    for character, entity in (("&", "&amp;"), ('"', "#quot;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, entity)
    return f'"{text}"'
