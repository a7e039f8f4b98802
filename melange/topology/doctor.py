"""What breaks silently: each fault with its reason and what repairs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from melange.drivers.base import EventFilter, MessagingDriver
from melange.drivers.inspection import ObservedQueue, ObservedSubscription, ObservedTopic
from melange.errors import AccessDeniedError, DriverError
from melange.topology.changes import about, in_words
from melange.topology.model import (
    TOPOLOGY_TAG,
    DeclaredBinding,
    DeclaredQueue,
    Topology,
    is_address,
    plain_name,
)
from melange.topology.observing import Observation, observe

Severity = Literal["error", "warning", "note"]
_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

APPLY = "melange topology apply {target}"
PRUNE = "melange topology apply {target} --prune"

_LAMBDA_FACTOR = 6


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. ``remedy`` is a command, with ``{target}`` for the program, or what to change.

    A note is not a fault of the topology: something that a person should know.
    """

    check: str
    severity: Severity
    resource: str
    problem: str
    reason: str
    remedy: str

    def to_document(self, target: str) -> dict[str, Any]:
        """Return the finding as JSON values, with the target in its remedy."""
        return {
            "check": self.check,
            "severity": self.severity,
            "resource": self.resource,
            "problem": self.problem,
            "reason": self.reason,
            "remedy": self.remedy_for(target),
        }

    def remedy_for(self, target: str) -> str:
        """Return the remedy with the name of the program."""
        return self.remedy.replace("{app}", app_option(target)).replace("{target}", target)


def app_option(target: str) -> str:
    """Return the option by which ``melange dead-letters`` finds the broker of the target; "" for files."""
    first = target.split(" ", 1)[0]
    return "" if first.endswith(".json") else f" --app {first}"


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
        *(finding for queue in topology.queues for finding in _of_queue(queue, observed)),
        *(
            finding
            for queue, binding in topology.bindings()
            for finding in _of_binding(topology, queue, binding, observed)
        ),
    ]
    return sorted(dict.fromkeys(findings), key=lambda finding: _SEVERITIES.index(finding.severity))


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


def _of_queue(queue: DeclaredQueue, observed: Observation) -> Iterator[Finding]:
    found = observed.queues[queue.name]
    yield from _visibility(queue, found)
    yield from _filter_against_listeners(queue)
    if found is None:
        return
    yield from _encryption(queue, found, observed)
    yield from _receive_count(queue, found)
    dead_letters = _dead_letter_queue(found, observed)
    if dead_letters is not None and dead_letters.retention_seconds <= found.retention_seconds:
        yield Finding(
            "dead-letter-retention",
            "error",
            f"queue {dead_letters.name}",
            f"it keeps messages for {in_words(dead_letters.retention_seconds)}, and {queue.name} for "
            f"{in_words(found.retention_seconds)}",
            "On a standard queue the age of a dead letter counts from its first sending: old ones vanish at once.",
            APPLY,
        )


def _dead_letter_queue(queue: ObservedQueue, observed: Observation) -> ObservedQueue | None:
    if queue.dead_letter_queue is None:
        return None
    known = (
        one for one in observed.queues.values() if one is not None and one.arn == queue.dead_letter_queue
    )
    return next(known, None) or observed.inspection.queue(queue.dead_letter_queue)


def _receive_count(queue: DeclaredQueue, found: ObservedQueue) -> Iterator[Finding]:
    count, least = found.max_receive_count, queue.max_receive_count
    if count is None or least is None or count >= least or queue.max_attempts is None:
        return
    yield Finding(
        "receive-count",
        "error" if count <= queue.max_attempts else "warning",
        f"queue {queue.name}",
        f"maxReceiveCount is {count}, with max_attempts={queue.max_attempts} it should be {least} or more",
        "The broker dead-letters messages before all attempts are made: deployments and waits count as receives too.",
        APPLY,
    )


def _visibility(queue: DeclaredQueue, found: ObservedQueue | None) -> Iterator[Finding]:
    limits = {one.timeout_seconds: one.name for one in queue.listeners if one.timeout_seconds is not None}
    if not limits or queue.visibility_timeout_seconds is None:
        return
    longest = max(limits)
    if queue.visibility_timeout_seconds <= longest:
        yield Finding(
            "visibility",
            "warning",
            f"queue {queue.name}",
            f"the visibility timeout is {queue.visibility_timeout_seconds} s, and listener {limits[longest]} may run "
            f"for {longest:g} s",
            "While it runs the lease has to be renewed: if the process stalls, another one receives the message too.",
            f"QueueOptions(visibility_timeout_seconds={int(longest) + 1}) or more in the program",
        )
    if found is not None and found.policy is not None and found.visibility_timeout_seconds <= longest:
        wanted = int(longest) * _LAMBDA_FACTOR
        yield Finding(
            "visibility",
            "warning",
            f"queue {queue.name}",
            f"the queue's own visibility timeout is {found.visibility_timeout_seconds} s, and listener "
            f"{limits[longest]} may run for {longest:g} s",
            "melange says its own timeout at each receive; AWS Lambda and other programs use the queue's.",
            "With Lambda: aws sqs set-queue-attributes "
            f"--queue-url {found.address} --attributes VisibilityTimeout={max(wanted, 30)}",
        )


def _filter_against_listeners(queue: DeclaredQueue) -> Iterator[Finding]:
    remedy = "add the types to filter_events= in the program, then " + APPLY
    for binding in queue.bindings:
        if binding.event_filter is None or not binding.event_filter.event_type_names:
            continue
        resource = f"{binding.topic} -> {queue.name}"
        yield from _dropped(queue, resource, binding.event_filter, "filter_events=", remedy)


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


def _encryption(queue: DeclaredQueue, found: ObservedQueue, observed: Observation) -> Iterator[Finding]:
    if not queue.bindings:
        return
    try:
        problem = observed.inspection.key_problem(found)
    except AccessDeniedError as error:
        yield Finding(
            "encryption",
            "warning",
            f"queue {queue.name}",
            "the policy of its key could not be read",
            f"It may keep SNS out. {error}",
            "allow kms:DescribeKey and kms:GetKeyPolicy on the key, and run the doctor again",
        )
        return
    except DriverError as error:
        problem = str(error)
    if problem:
        yield Finding(
            "encryption",
            "error",
            f"queue {queue.name}",
            problem,
            "SNS cannot encrypt its messages for the queue, and drops them.",
            "encrypt with a customer key that allows sns.amazonaws.com kms:GenerateDataKey* and kms:Decrypt: "
            "see docs/aws.md, Encryption; then use_driver(..., kms_master_key_id=...) and " + APPLY,
        )


def _of_binding(
    topology: Topology, queue: DeclaredQueue, binding: DeclaredBinding, observed: Observation
) -> Iterator[Finding]:
    yield from _never_published(topology, queue, binding)
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
