"""What has to change at the broker, so that it has what a program declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

from melange.drivers.base import MessagingDriver
from melange.topology.binding_changes import BindingChanges
from melange.topology.changes import Change, about
from melange.topology.model import Topology
from melange.topology.observing import Observation, observe
from melange.topology.queue_changes import QueueChanges
from melange.topology.renaming import moved_with, renames


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes in the order in which they are carried out, and what a person should know besides."""

    topology: Topology
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    @property
    def has_drift(self) -> bool:
        """True if the broker is not as the program wants it."""
        return any(change.is_drift for change in self.changes)

    def to_document(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "topology": self.topology.name,
            "prefix": self.topology.prefix,
            "drift": self.has_drift,
            "changes": [change.to_document() for change in self.changes],
            "notes": list(self.notes),
        }


def make_plan(
    topology: Topology, driver: MessagingDriver, *, renamed: Mapping[str, str] | None = None
) -> Plan:
    """Compare the topology with the broker of the driver. Nothing is changed.

    ``renamed`` has new names of queues by their old ones: the messages of the old queue move to the new one, then the old
    one is removed.

    Raises:
        TopicNotFoundError, QueueNotFoundError: something given as ARN or URL does not exist.
        ConfigurationError: the driver has no inspection, or another prefix.
        DriverError: the broker is unavailable, or a permission is missing.
    """
    observed = observe(topology, driver)
    queues = QueueChanges(topology, driver, observed)
    bindings = BindingChanges(topology, driver, observed)
    moved = moved_with(observed.inspection, renamed or {})
    changes = [
        *_missing_topics(topology, driver, observed),
        *queues.wanted(),
        *bindings.wanted(),
        *renames(topology, driver, observed.inspection, renamed or {}),
        *bindings.surplus(),
        *queues.surplus(moved),
    ]
    return Plan(topology, tuple(changes), tuple(_notes(observed, moved)))


def _missing_topics(topology: Topology, driver: MessagingDriver, observed: Observation) -> Iterator[Change]:
    for topic in topology.topics:
        if observed.topics[topic.name] is None:
            create = partial(driver.declare_topic, topic.name)
            yield Change("create", "topic", topic.name, carry_out=create)


def _notes(observed: Observation, moved: Set[str]) -> Iterator[str]:
    """Yield the queues of others on our topics: another service, or an old name that has no mark."""
    for topic_name, queue in observed.strangers():
        if queue.arn not in moved:
            yield (
                f"topic {topic_name} also feeds queue {queue.name}, which this program does not consume "
                f"({about(queue.message_count)})"
            )
