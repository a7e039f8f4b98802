"""The model as a JSON document, to keep, to compare and to give to ``melange server``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from melange.drivers.base import EventFilter
from melange.errors import ConfigurationError
from melange.topology.model import (
    DeclaredBinding,
    DeclaredListener,
    DeclaredPayloads,
    DeclaredPublisher,
    DeclaredQueue,
    DeclaredTopic,
    Topology,
    topology_from,
)

VERSION = 1

Document = dict[str, Any]


def to_document(topology: Topology) -> Document:
    """Return the model as JSON values; ``from_document`` reads it."""
    return {
        "melange_topology": VERSION,
        "name": topology.name,
        "prefix": topology.prefix,
        "topics": [_topic(topic) for topic in topology.topics],
        "queues": [_queue(queue) for queue in topology.queues],
        "publishers": [
            {"target": one.target, "through": one.through, "event_types": _optional_list(one.event_types)}
            for one in topology.publishers
        ],
        **({"payloads": [asdict(one) for one in topology.payloads]} if topology.payloads else {}),
    }


def from_document(document: object) -> Topology:
    """Return the model in a document.

    Raises:
        ConfigurationError: it is not one, or one of another version.
    """
    if not isinstance(document, dict) or document.get("melange_topology") != VERSION:
        raise ConfigurationError(
            f"this is not a topology of version {VERSION}: write one with `melange topology export --format json`"
        )
    try:
        return Topology(
            name=document["name"],
            prefix=document["prefix"],
            topics=tuple(
                DeclaredTopic(one["name"], _optional_tuple(one["event_types"])) for one in document["topics"]
            ),
            queues=tuple(_queue_from(one) for one in document["queues"]),
            publishers=tuple(
                DeclaredPublisher(one["target"], one["through"], _optional_tuple(one["event_types"]))
                for one in document["publishers"]
            ),
            payloads=tuple(
                DeclaredPayloads(one["bucket"], one["prefix"], one["days"])
                for one in document.get("payloads", ())
            ),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"the topology cannot be read ({type(error).__name__}: {error}): write it again with "
            "`melange topology export --format json`"
        ) from error


def combined(name: str, topologies: list[Topology]) -> Topology:
    """Return several topologies, such as those of the services of one system, as one.

    Raises:
        ConfigurationError: they have different prefixes, or contradict each other.
    """
    prefixes = {topology.prefix for topology in topologies}
    if len(prefixes) > 1:
        raise ConfigurationError(
            f"the topologies have different prefixes, {', '.join(sorted(map(repr, prefixes)))}: take those of one environment"
        )
    return topology_from(
        name,
        prefixes.pop(),
        (queue for topology in topologies for queue in topology.queues),
        (publisher for topology in topologies for publisher in topology.publishers),
        (payloads for topology in topologies for payloads in topology.payloads),
    )


def _topic(topic: DeclaredTopic) -> Document:
    return {"name": topic.name, "event_types": _optional_list(topic.event_types)}


def _queue(queue: DeclaredQueue) -> Document:
    return {
        "name": queue.name,
        "bindings": [
            {
                "topic": binding.topic,
                "event_types": list(binding.event_filter.event_type_names) if binding.event_filter else None,
                "filter_scope": binding.event_filter.scope if binding.event_filter else None,
            }
            for binding in queue.bindings
        ],
        "listeners": [
            {"name": one.name, "event_types": list(one.event_types), "timeout_seconds": one.timeout_seconds}
            for one in queue.listeners
        ],
        "dead_letter_queue": queue.dead_letter_queue,
        "keeps_dead_letter_queue": queue.keeps_dead_letter_queue,
        "max_receive_count": queue.max_receive_count,
        "max_attempts": queue.max_attempts,
        "retention_seconds": queue.retention_seconds,
        "visibility_timeout_seconds": queue.visibility_timeout_seconds,
        "tags": dict(queue.tags),
        "dead_letters_of": list(queue.dead_letters_of),
    }


def _queue_from(one: Mapping[str, Any]) -> DeclaredQueue:
    return DeclaredQueue(
        name=one["name"],
        bindings=tuple(
            DeclaredBinding(
                binding["topic"],
                None
                if binding["event_types"] is None
                else EventFilter(tuple(binding["event_types"]), binding["filter_scope"]),
            )
            for binding in one["bindings"]
        ),
        listeners=tuple(
            DeclaredListener(listener["name"], tuple(listener["event_types"]), listener["timeout_seconds"])
            for listener in one["listeners"]
        ),
        dead_letter_queue=one["dead_letter_queue"],
        keeps_dead_letter_queue=one["keeps_dead_letter_queue"],
        max_receive_count=one["max_receive_count"],
        max_attempts=one["max_attempts"],
        retention_seconds=one["retention_seconds"],
        visibility_timeout_seconds=one["visibility_timeout_seconds"],
        tags=dict(one["tags"]),
        dead_letters_of=tuple(one["dead_letters_of"]),
    )


def _optional_list(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _optional_tuple(names: object) -> tuple[str, ...] | None:
    return None if names is None else tuple(cast(list[str], names))
