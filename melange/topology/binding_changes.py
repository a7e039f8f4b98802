"""The changes by which the subscriptions of queues to topics become those that a program declares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from melange.drivers.base import EventFilter, MessagingDriver, find_topic
from melange.drivers.inspection import ObservedSubscription
from melange.topology.changes import FILTER_TAKES, NOWHERE, Change, Difference
from melange.topology.model import DeclaredBinding, DeclaredQueue, Topology, is_address
from melange.topology.observing import Observation


class BindingChanges:
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
        differences = (
            []
            if not _types(binding.event_filter)
            else [Difference("filter", NOWHERE, _described(binding.event_filter))]
        )
        return Change(
            "create",
            "binding",
            _arrow(binding.topic, queue.name),
            tuple(differences),
            carry_out=self._binding(queue, binding),
        )

    def _binding(self, queue: DeclaredQueue, binding: DeclaredBinding) -> Callable[[], None]:
        def bind() -> None:
            topic = find_topic(self._driver, binding.topic, declare=False)
            self._driver.declare_queue(queue.name, topic, event_filter=binding.event_filter)
            self._give_dead_letters(queue, binding.topic)

        return bind

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
        declare = self._binding(queue, binding)
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
                        "dead letters of SNS", NOWHERE, self._topology.own_name(target.dead_letter_queue)
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
                    (Difference("filter", described, NOWHERE),),
                    takes=FILTER_TAKES,
                    carry_out=self._binding(queue, DeclaredBinding(binding.topic, EventFilter(()))),
                )
            return
        is_same = now.other_filter is None and _same(now.event_filter, wanted)
        if not is_same:
            yield Change(
                "update",
                "binding",
                _arrow(binding.topic, queue.name),
                (Difference("filter", described, _described(wanted)),),
                takes=FILTER_TAKES,
                carry_out=self._binding(queue, binding),
            )


def _types(event_filter: EventFilter | None) -> Iterable[str]:
    return event_filter.event_type_names if event_filter is not None else ()


def _described(event_filter: EventFilter | None) -> str:
    names = sorted(_types(event_filter))
    if event_filter is None or not names:
        return NOWHERE
    return ", ".join(names) + (" (in the body)" if event_filter.scope == "body" else "")


def _same(now: EventFilter | None, wanted: EventFilter) -> bool:
    if not wanted.event_type_names:
        return now is None
    return now is not None and now.scope == wanted.scope and set(_types(now)) == set(_types(wanted))


def _arrow(topic: str, queue: str) -> str:
    return f"{topic} -> {queue}"
