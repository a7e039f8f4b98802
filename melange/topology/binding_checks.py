"""The doctor's checks of one binding, a queue's subscription to a topic."""

from __future__ import annotations

from collections.abc import Iterator

from melange.drivers.base import EventFilter
from melange.drivers.inspection import ObservedQueue, ObservedSubscription, ObservedTopic
from melange.topology.findings import APPLY, PRUNE, Finding
from melange.topology.model import DeclaredBinding, DeclaredQueue, Topology
from melange.topology.observing import Observation


def findings_of_binding(
    topology: Topology, queue: DeclaredQueue, binding: DeclaredBinding, observed: Observation
) -> Iterator[Finding]:
    """Yield what is wrong between a topic and a queue: events that never come, and a subscription that loses some."""
    yield from _never_published(topology, queue, binding)
    yield from _filter_against_listeners(queue, binding)
    subscription = observed.subscription(binding.topic, queue.name)
    topic, found = observed.topics[binding.topic], observed.queues[queue.name]
    if subscription is None or topic is None or found is None:
        return
    resource = f"{binding.topic} -> {queue.name}"
    yield from _policy(resource, found, topic, observed)
    if subscription.is_pending:
        yield Finding(
            "pending",
            "error",
            resource,
            "the subscription waits for its confirmation",
            "SNS delivers nothing until the account of the queue confirms it.",
            "subscribe with the credentials of the queue's account: " + APPLY,
        )
        return
    yield from _subscription(queue, binding, subscription, found)


def _policy(
    resource: str, queue: ObservedQueue, topic: ObservedTopic, observed: Observation
) -> Iterator[Finding]:
    problem = observed.inspection.policy_problem(queue, topic)
    if problem:
        is_denied = problem.startswith("a Deny")
        yield Finding(
            "queue-policy",
            "error",
            resource,
            problem,
            "SNS may not send to the queue: it drops what is published, and no call fails.",
            f"take the Deny statement out of the policy of {queue.arn}" if is_denied else APPLY,
        )


def _subscription(
    queue: DeclaredQueue, binding: DeclaredBinding, now: ObservedSubscription, found: ObservedQueue
) -> Iterator[Finding]:
    resource = f"{binding.topic} -> {queue.name}"
    only_it = f"{PRUNE} --only '{resource}'"
    if not now.is_raw:
        yield Finding(
            "raw-delivery",
            "error",
            resource,
            "raw delivery is off",
            "Messages arrive in an envelope of SNS: attributes are not where consumers other than melange look, and "
            "filters by headers of a queue behind it fail.",
            APPLY,
        )
    if now.other_filter is not None:
        yield Finding(
            "filter-drops",
            "warning",
            resource,
            f"the filter {now.other_filter} selects by something other than event types",
            "melange did not write it, and it may drop events that a listener wants.",
            only_it,
        )
    elif now.event_filter is not None:
        passed = now.event_filter.event_type_names
        remedy = APPLY
        if binding.event_filter is None:
            remedy = f"{only_it}; or keep a filter: {_filter_for(queue)} in the program, then {APPLY}"
        yield from _dropped(queue, resource, now.event_filter, "the broker's filter", remedy)
        if binding.event_filter is None and any(not one.event_types for one in queue.listeners):
            yield Finding(
                "filter-drops",
                "error",
                resource,
                f"the broker's filter passes only {', '.join(sorted(passed))}, and a listener takes all types",
                "The broker drops all other events before the queue.",
                only_it,
            )
    if now.dead_letter_queue is None:
        has_one = found.dead_letter_queue is not None
        yield Finding(
            "subscription-dead-letters",
            "warning",
            resource,
            "the subscription has no dead-letter queue",
            "What SNS cannot deliver, while a policy or key is wrong say, is lost; the queue's own dead-letter queue "
            "holds only what has reached the queue.",
            APPLY if has_one else "give the queue a dead-letter queue in the program, then " + APPLY,
        )


def _filter_for(queue: DeclaredQueue) -> str:
    """Return the keyword of a consumer for a filter that passes what its listeners want."""
    wanted = sorted({name for one in queue.listeners for name in one.event_types})
    return f"filter_events=[{', '.join(wanted)}]"


def _dropped(
    queue: DeclaredQueue, resource: str, event_filter: EventFilter, filter_name: str, remedy: str
) -> Iterator[Finding]:
    for listener in queue.listeners:
        missing = sorted(set(listener.event_types) - set(event_filter.event_type_names))
        if missing:
            yield Finding(
                "filter-drops",
                "error",
                resource,
                f"{filter_name} drops {', '.join(missing)}, to which {listener.name} listens",
                "The broker drops these events before the queue, and the listener never runs.",
                remedy,
            )


def _never_published(topology: Topology, queue: DeclaredQueue, binding: DeclaredBinding) -> Iterator[Finding]:
    published: set[str] = set()
    for other in queue.bindings:
        topic = topology.topic(other.topic)
        if topic is None or topic.event_types is None:
            return  # what it brings is not known
        published.update(topic.event_types)
    selected = binding.event_filter.event_type_names if binding.event_filter is not None else ()
    for name in sorted(set(selected) - published):
        yield _unpublished(f"{binding.topic} -> {queue.name}", f"the filter selects {name}", published)
    for listener in queue.listeners:
        for name in sorted(set(listener.event_types) - published):
            yield _unpublished(f"queue {queue.name}", f"{listener.name} listens to {name}", published)


def _unpublished(resource: str, what: str, published: set[str]) -> Finding:
    return Finding(
        "never-published",
        "warning",
        resource,
        f"{what}, which no publisher of its topics publishes",
        f"It never comes. Published are {', '.join(sorted(published)) or 'no types'}.",
        "correct the name in the program, or name the publisher's service as a further target",
    )


def _filter_against_listeners(queue: DeclaredQueue, binding: DeclaredBinding) -> Iterator[Finding]:
    if binding.event_filter is None or not binding.event_filter.event_type_names:
        return
    remedy = "add the types to filter_events= in the program, then " + APPLY
    resource = f"{binding.topic} -> {queue.name}"
    yield from _dropped(queue, resource, binding.event_filter, "filter_events=", remedy)
