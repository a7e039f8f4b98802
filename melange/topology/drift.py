"""Drift: what a broker has otherwise than a program declares it, and the changes that repair it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial

from melange.drivers.base import (
    NO_DEAD_LETTER_QUEUE,
    BrokerAdministration,
    EventFilter,
    MessagingDriver,
    NoDeadLetterQueue,
    find_topic,
)
from melange.drivers.inspection import ObservedQueue, ObservedSubscription
from melange.errors import ConfigurationError
from melange.messages import Queue
from melange.topology.model import TOPOLOGY_TAG, DeclaredBinding, DeclaredQueue, Topology, is_address
from melange.topology.observing import Observation, observe
from melange.topology.plan import Change, Difference, Plan, about, in_words
from melange.topology.renaming import NAME_TAKES, moved_with, renames

_NOWHERE = "none"
_FILTER_TAKES = "up to 15 minutes on AWS"


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
    queues = _QueueChanges(topology, driver, observed)
    bindings = _BindingChanges(topology, driver, observed)
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


class _QueueChanges:
    """Compares declared queues with those of the broker."""

    def __init__(self, topology: Topology, driver: MessagingDriver, observed: Observation) -> None:
        self._topology = topology
        self._driver = driver
        self._observed = observed

    def wanted(self) -> Iterator[Change]:
        """Yield what creates missing queues and changes the settings of others."""
        # Dead-letter queues first: the queues of the dead letters name them.
        for queue in sorted(self._topology.queues, key=lambda queue: not queue.dead_letters_of):
            if is_address(queue.name):
                continue
            observed = self._observed.queues[queue.name]
            if observed is None:
                yield Change(
                    "create",
                    "queue",
                    queue.name,
                    tuple(self._settings(queue)),
                    carry_out=self._declaring(queue),
                )
                continue
            differences = tuple(self._changed_settings(queue, observed))
            if differences:
                yield Change("update", "queue", queue.name, differences, carry_out=self._declaring(queue))
            yield from self._mark(queue, observed)

    def surplus(self, moved: Set[str]) -> Iterator[Change]:
        """Yield the removals of queues that are not declared any more; those with an ARN in ``moved`` are renamed."""
        left_behind = list(self._observed.left_behind(self._topology.name))
        sources = self._observed.dead_letter_sources(left_behind)
        for queue in left_behind:
            if queue.arn in moved:
                continue
            yield Change(
                "remove",
                "queue",
                queue.name,
                takes=NAME_TAKES,
                message_count=queue.message_count,
                old_name=sources.get(queue.arn, queue).name,
                carry_out=partial(self._delete, queue),
            )

    def _mark(self, queue: DeclaredQueue, observed: ObservedQueue) -> Iterator[Change]:
        owner = observed.tags.get(TOPOLOGY_TAG)
        if owner == self._topology.name:
            return
        yield Change(
            "update",
            "queue",
            queue.name,
            (Difference(f"tag {TOPOLOGY_TAG}", owner or _NOWHERE, self._topology.name),),
            is_drift=owner is not None,
            owner=owner or "",
            carry_out=partial(
                self._driver.declare_queue, queue.name, tags={TOPOLOGY_TAG: self._topology.name}
            ),
        )

    def _settings(self, queue: DeclaredQueue) -> Iterator[Difference]:
        if queue.dead_letter_queue is not None:
            yield Difference("dead-letter queue", _NOWHERE, queue.dead_letter_queue)
            yield Difference("receives before that", _NOWHERE, str(queue.max_receive_count))
        if queue.retention_seconds is not None:
            yield Difference("retention", _NOWHERE, in_words(queue.retention_seconds))
        yield from self._tags(queue, {})

    def _changed_settings(self, queue: DeclaredQueue, observed: ObservedQueue) -> Iterator[Difference]:
        yield from self._dead_letter_settings(queue, observed)
        wanted = queue.retention_seconds
        if wanted is not None and observed.retention_seconds < wanted:
            yield Difference("retention", in_words(observed.retention_seconds), in_words(wanted))
        yield from self._tags(queue, dict(observed.tags))

    def _dead_letter_settings(self, queue: DeclaredQueue, observed: ObservedQueue) -> Iterator[Difference]:
        now, wanted = observed.dead_letter_queue, queue.dead_letter_queue
        if wanted is None:
            if now is not None and queue.is_consumed and not queue.keeps_dead_letter_queue:
                yield Difference("dead-letter queue", self._topology.own_name(now), _NOWHERE)
            return
        target = self._observed.queues[wanted]
        is_as_wanted = now is not None and (
            queue.keeps_dead_letter_queue or (target is not None and now == target.arn)
        )
        if not is_as_wanted:
            yield Difference("dead-letter queue", self._topology.own_name(now) if now else _NOWHERE, wanted)
        count, least = observed.max_receive_count, queue.max_receive_count or 1
        if count is None or count < least:
            yield Difference("receives before that", str(count or _NOWHERE), str(least))

    @staticmethod
    def _tags(queue: DeclaredQueue, now: dict[str, str]) -> Iterator[Difference]:
        for key, value in sorted(queue.tags.items()):
            if now.get(key) != value:
                yield Difference(f"tag {key}", now.get(key, _NOWHERE), value)

    def _declaring(self, queue: DeclaredQueue) -> Callable[[], Queue]:
        def declare() -> Queue:
            observed = self._observed.queues[queue.name]
            dead_letter_queue: Queue | NoDeadLetterQueue | None = None
            if queue.dead_letter_queue is not None:
                has_another = observed is not None and observed.dead_letter_queue is not None
                if not (has_another and queue.keeps_dead_letter_queue):
                    dead_letter_queue = self._driver.get_queue(queue.dead_letter_queue)
            elif queue.is_consumed and not queue.keeps_dead_letter_queue:
                dead_letter_queue = NO_DEAD_LETTER_QUEUE
            now = (observed.max_receive_count if observed else None) or 0
            return self._driver.declare_queue(
                queue.name,
                dead_letter_queue=dead_letter_queue,
                max_receive_count=max(queue.max_receive_count, now) if queue.max_receive_count else None,
                retention_seconds=queue.retention_seconds,
                tags={**queue.tags, TOPOLOGY_TAG: self._topology.name} if observed is None else queue.tags,
            )

        return declare

    def _delete(self, queue: ObservedQueue) -> None:
        if not isinstance(self._driver, BrokerAdministration):
            raise ConfigurationError(f"{type(self._driver).__name__} cannot delete queues")
        for subscription in self._observed.inspection.subscriptions_into(queue):
            self._observed.inspection.unsubscribe(subscription)
        self._driver.delete_queue(Queue(queue.name, queue.address))


class _BindingChanges:
    """Compares declared bindings with the subscriptions of the broker."""

    def __init__(self, topology: Topology, driver: MessagingDriver, observed: Observation) -> None:
        self._topology = topology
        self._driver = driver
        self._observed = observed

    def wanted(self) -> Iterator[Change]:
        """Yield what subscribes queues, and repairs their subscriptions."""
        for queue, binding in self._topology.bindings():
            if is_address(queue.name):
                continue
            subscription = self._observed.subscription(binding.topic, queue.name)
            if subscription is None:
                yield self._new_binding(queue, binding)
            else:
                yield from self._changed_binding(queue, binding, subscription)

    def surplus(self) -> Iterator[Change]:
        """Yield the removals of subscriptions to topics that their queues do not name."""
        for queue in self._topology.queues:
            if is_address(queue.name) or not queue.is_consumed:
                continue
            for subscription in self._observed.surplus(queue):
                yield Change(
                    "remove",
                    "binding",
                    _arrow(self._topology.own_name(subscription.topic_address), queue.name),
                    carry_out=partial(self._observed.inspection.unsubscribe, subscription),
                )

    def _new_binding(self, queue: DeclaredQueue, binding: DeclaredBinding) -> Change:
        described = _described(binding.event_filter)
        return Change(
            "create",
            "binding",
            _arrow(binding.topic, queue.name),
            () if described == _NOWHERE else (Difference("filter", _NOWHERE, described),),
            carry_out=self._declaring(queue, binding),
        )

    def _declaring(self, queue: DeclaredQueue, binding: DeclaredBinding) -> Callable[[], None]:
        def declare() -> None:
            topic = find_topic(self._driver, binding.topic, declare=False)
            self._driver.declare_queue(queue.name, topic, event_filter=binding.event_filter)
            self._give_dead_letters(queue, binding.topic)

        return declare

    def _give_dead_letters(self, queue: DeclaredQueue, topic_name: str) -> None:
        """Let a new subscription keep what the broker cannot deliver, if the queue has a dead-letter queue."""
        inspection = self._observed.inspection
        topic, source = inspection.topic(topic_name), inspection.queue(queue.name)
        if topic is None or source is None or source.dead_letter_queue is None:
            return
        target = inspection.queue(source.dead_letter_queue)
        for subscription in inspection.subscriptions_of(topic):
            if subscription.queue_arn == source.arn and subscription.dead_letter_queue is None and target:
                inspection.set_dead_letter_queue(subscription, target)

    def _changed_binding(
        self, queue: DeclaredQueue, binding: DeclaredBinding, now: ObservedSubscription
    ) -> Iterator[Change]:
        change = partial(Change, "update", "binding", _arrow(binding.topic, queue.name))
        declare = self._declaring(queue, binding)
        topic, target = self._observed.topics[binding.topic], self._observed.queues[queue.name]
        assert topic is not None
        assert target is not None
        problem = self._observed.inspection.policy_problem(target, topic)
        if problem:
            yield change((Difference("policy", problem, "the topic may send"),), carry_out=declare)
        if now.is_pending:
            return  # nothing of it can be changed: the doctor says what to do
        if not now.is_raw:
            raw = partial(self._observed.inspection.set_raw_delivery, now)
            yield change((Difference("raw delivery", "off", "on"),), carry_out=raw)
        yield from self._changed_filter(queue, binding, now)
        if now.dead_letter_queue is None and target.dead_letter_queue is not None:
            yield change(
                (
                    Difference(
                        "dead letters of SNS", _NOWHERE, self._topology.own_name(target.dead_letter_queue)
                    ),
                ),
                is_drift=False,
                carry_out=partial(self._give_dead_letters, queue, binding.topic),
            )

    def _changed_filter(
        self, queue: DeclaredQueue, binding: DeclaredBinding, now: ObservedSubscription
    ) -> Iterator[Change]:
        described = now.other_filter or _described(now.event_filter)
        wanted = binding.event_filter
        has_filter = now.other_filter is not None or now.event_filter is not None
        if wanted is None:
            if has_filter:
                yield Change(
                    "remove",
                    "binding",
                    _arrow(binding.topic, queue.name),
                    (Difference("filter", described, _NOWHERE),),
                    takes=_FILTER_TAKES,
                    carry_out=self._declaring(queue, DeclaredBinding(binding.topic, EventFilter(()))),
                )
            return
        is_same = now.other_filter is None and _same(now.event_filter, wanted)
        if not is_same:
            yield Change(
                "update",
                "binding",
                _arrow(binding.topic, queue.name),
                (Difference("filter", described, _described(wanted)),),
                takes=_FILTER_TAKES,
                carry_out=self._declaring(queue, binding),
            )


def _described(event_filter: EventFilter | None) -> str:
    if event_filter is None or not event_filter.event_type_names:
        return _NOWHERE
    names = ", ".join(sorted(event_filter.event_type_names))
    return names + (" (in the body)" if event_filter.scope == "body" else "")


def _same(now: EventFilter | None, wanted: EventFilter) -> bool:
    if not wanted.event_type_names:
        return now is None
    if now is None or now.scope != wanted.scope:
        return False
    return set(now.event_type_names) == set(wanted.event_type_names)


def _arrow(topic: str, queue: str) -> str:
    return f"{topic} -> {queue}"
