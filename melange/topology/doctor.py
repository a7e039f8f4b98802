"""The doctor: it looks through a topology and its broker for faults that no call reports, with what repairs each."""

from __future__ import annotations

from collections.abc import Iterator

from melange.drivers.base import MessagingDriver
from melange.drivers.inspection import ObservedSubscription
from melange.topology.checks import APPLY, PRUNE, SEVERITIES, Finding, findings_of_binding, findings_of_queue
from melange.topology.model import TOPOLOGY_TAG, DeclaredQueue, Topology, is_address, plain_name
from melange.topology.observing import Observation, observe
from melange.topology.plan import about, in_words


def diagnose(topology: Topology, driver: MessagingDriver) -> list[Finding]:
    """Return the faults of the topology and of its broker, errors first. Nothing is changed.

    Raises:
        TopicNotFoundError, QueueNotFoundError: something given as ARN or URL does not exist.
        ConfigurationError: the driver has no inspection, or another prefix.
        DriverError: the broker is unavailable, or a permission is missing.
    """
    observed = observe(topology, driver)
    findings = [
        *_missing(topology, observed),
        *_shared_names(topology, observed),
        *_old_names(topology, observed),
        *_waiting_dead_letters(topology, observed),
        *(finding for queue in topology.queues for finding in findings_of_queue(queue, observed)),
        *(
            finding
            for queue, binding in topology.bindings()
            for finding in findings_of_binding(topology, queue, binding, observed)
        ),
    ]
    return sorted(dict.fromkeys(findings), key=lambda finding: SEVERITIES.index(finding.severity))


def _missing(topology: Topology, observed: Observation) -> Iterator[Finding]:
    for kind, found in (("topic", observed.topics), ("queue", observed.queues)):
        for name in (name for name, one in found.items() if one is None):
            yield Finding(
                "missing",
                "error",
                f"{kind} {name}",
                f"the {kind} does not exist",
                "A program with declare=False fails at its start; another creates it, with other settings perhaps.",
                APPLY,
            )
    for queue, binding in topology.bindings():
        exist = observed.topics.get(binding.topic) and observed.queues.get(queue.name)
        if exist and observed.subscription(binding.topic, queue.name) is None:
            yield Finding(
                "missing",
                "error",
                f"{binding.topic} -> {queue.name}",
                "the queue is not subscribed to the topic",
                "Nothing that is published to the topic reaches the queue, and no call fails.",
                APPLY,
            )


def _shared_names(topology: Topology, observed: Observation) -> Iterator[Finding]:
    for name, queue in observed.queues.items():
        owner = queue.tags.get(TOPOLOGY_TAG) if queue is not None and not is_address(name) else None
        if owner is not None and owner != topology.name:
            yield Finding(
                "shared-name",
                "error",
                f"queue {name}",
                f"the queue is marked for the topology {owner!r}, and this is {topology.name!r}",
                "Two environments or programs with one queue take each other's messages.",
                "Give one of them a prefix (prefix= of the driver), or take it over: "
                "melange topology apply {target} --adopt",
            )
    for declared in topology.queues:
        if not declared.is_consumed or is_address(declared.name):
            continue
        for subscription in observed.surplus(declared):
            yield from _other_environment(declared, subscription, observed)


def _other_environment(
    declared: DeclaredQueue, subscription: ObservedSubscription, observed: Observation
) -> Iterator[Finding]:
    """Find a topic that has the name of one of ours with another prefix, or of another account."""
    other = plain_name(subscription.topic_address)
    for binding in declared.bindings:
        ours = observed.topics.get(binding.topic)
        if ours is None:
            continue
        own_name = plain_name(ours.address)
        if other == own_name or other.endswith(f"-{ours.name}") or own_name.endswith(f"-{other}"):
            yield Finding(
                "shared-name",
                "error",
                f"queue {declared.name}",
                f"it receives from {subscription.topic_address} as well as from {ours.address}",
                "Events of two environments are mixed in one queue.",
                PRUNE,
            )


def _old_names(topology: Topology, observed: Observation) -> Iterator[Finding]:
    left_behind = list(observed.left_behind(topology.name))
    sources = observed.dead_letter_sources(left_behind)
    for queue in left_behind:
        if queue.arn in sources:
            continue  # --renamed takes it together with its source
        held = f"it holds {about(queue.message_count)}"
        dead_letters = next((one for one in left_behind if one.arn == queue.dead_letter_queue), None)
        if dead_letters is not None:
            held += f", its dead-letter queue {dead_letters.name} {about(dead_letters.message_count)}"
        yield Finding(
            "old-name",
            "error",
            f"queue {queue.name}",
            f"it is marked for this topology, and the program does not declare it; {held}",
            "Messages of a queue that was renamed wait there until their retention ends, and are lost.",
            f"melange topology apply {{target}} --renamed {queue.name}=NEW_NAME, or --prune if it is not needed",
        )
    for topic_name, queue in observed.strangers():
        if TOPOLOGY_TAG not in queue.tags and queue.message_count:
            yield Finding(
                "old-name",
                "warning",
                f"queue {queue.name}",
                f"topic {topic_name} feeds it, the program does not declare it, and it holds {about(queue.message_count)}",
                "If it is an old name of a queue, its messages wait there and are lost in the end.",
                f"melange topology apply {{target}} --renamed {queue.name}=NEW_NAME; if another program consumes it, name "
                "that as a further TARGET",
            )


def _waiting_dead_letters(topology: Topology, observed: Observation) -> Iterator[Finding]:
    for declared in topology.queues:
        found = observed.queues[declared.name]
        if declared.dead_letters_of and found is not None and found.message_count:
            source = declared.dead_letters_of[0] if len(declared.dead_letters_of) == 1 else declared.name
            yield Finding(
                "dead-letters",
                "note",
                f"queue {declared.name}",
                f"it holds {about(found.message_count)}",
                "Nothing retries dead letters by itself, and the broker deletes them after "
                f"{in_words(found.retention_seconds)}.",
                f"melange dead-letters list {source}{{app}}",
            )
