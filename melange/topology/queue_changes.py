"""The changes by which the queues of a broker become those that a program declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from functools import partial

from melange.drivers.base import (
    NO_DEAD_LETTER_QUEUE,
    BrokerAdministration,
    MessagingDriver,
    NoDeadLetterQueue,
)
from melange.drivers.inspection import ObservedQueue
from melange.errors import ConfigurationError
from melange.messages import Queue
from melange.topology.changes import NAME_TAKES, NOWHERE, Change, Difference, in_words
from melange.topology.model import TOPOLOGY_TAG, DeclaredQueue, Topology, is_address
from melange.topology.observing import Observation


class QueueChanges:
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
            (Difference(f"tag {TOPOLOGY_TAG}", owner or NOWHERE, self._topology.name),),
            is_drift=owner is not None,
            owner=owner or "",
            carry_out=partial(
                self._driver.declare_queue, queue.name, tags={TOPOLOGY_TAG: self._topology.name}
            ),
        )

    def _settings(self, queue: DeclaredQueue) -> Iterator[Difference]:
        if queue.dead_letter_queue is not None:
            yield Difference("dead-letter queue", NOWHERE, queue.dead_letter_queue)
            yield Difference("receives before that", NOWHERE, str(queue.max_receive_count))
        if queue.retention_seconds is not None:
            yield Difference("retention", NOWHERE, in_words(queue.retention_seconds))
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
                yield Difference("dead-letter queue", self._topology.own_name(now), NOWHERE)
            return
        target = self._observed.queues[wanted]
        is_as_wanted = now is not None and (
            queue.keeps_dead_letter_queue or (target is not None and now == target.arn)
        )
        if not is_as_wanted:
            yield Difference("dead-letter queue", self._topology.own_name(now) if now else NOWHERE, wanted)
        count, least = observed.max_receive_count, queue.max_receive_count or 1
        if count is None or count < least:
            yield Difference("receives before that", str(count or NOWHERE), str(least))

    @staticmethod
    def _tags(queue: DeclaredQueue, now: dict[str, str]) -> Iterator[Difference]:
        for key, value in sorted(queue.tags.items()):
            if now.get(key) != value:
                yield Difference(f"tag {key}", now.get(key, NOWHERE), value)

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
