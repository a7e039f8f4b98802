"""What the doctor finds: findings, and the checks of one queue and of one binding that yield them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from melange.drivers.base import EventFilter
from melange.drivers.inspection import ObservedQueue, ObservedSubscription, ObservedTopic
from melange.errors import AccessDeniedError, DriverError
from melange.topology.model import DeclaredBinding, DeclaredQueue, Topology
from melange.topology.observing import Observation
from melange.topology.plan import in_words

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

APPLY = "melange topology apply {target}"
PRUNE = "melange topology apply {target} --prune"

LAMBDA_VISIBILITY_FACTOR = 6
"""https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""


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


def findings_of_queue(queue: DeclaredQueue, observed: Observation) -> Iterator[Finding]:
    """Yield what is wrong with a queue: visibility, encryption, receive count, retention of its dead letters."""
    found = observed.queues[queue.name]
    yield from _visibility(queue, found)
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
        wanted = int(longest) * LAMBDA_VISIBILITY_FACTOR
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
    yield from _broker_filter(queue, binding, now)
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


def _broker_filter(
    queue: DeclaredQueue, binding: DeclaredBinding, now: ObservedSubscription
) -> Iterator[Finding]:
    resource = f"{binding.topic} -> {queue.name}"
    only_it = f"{PRUNE} --only '{resource}'"
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
