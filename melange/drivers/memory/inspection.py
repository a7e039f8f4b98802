"""The in-memory broker's topics, queues and bindings in detail, for ``melange.topology``."""

from __future__ import annotations

import threading
from collections.abc import Callable

from melange.clock import Clock
from melange.drivers.inspection import ObservedQueue, ObservedSubscription, ObservedTopic
from melange.drivers.memory.broker import MemoryBroker, MemoryQueue, MemoryTopic
from melange.errors import QueueNotFoundError, TopicNotFoundError

_VISIBILITY_SECONDS = 30  # receives say theirs; there is no setting of the queue


class MemoryInspection:
    """See ``BrokerInspection``. Topics always reach the queues, so there are no policies, keys and raw deliveries."""

    def __init__(
        self, broker: MemoryBroker, lock: threading.Lock, clock: Clock, check_open: Callable[[], None]
    ) -> None:
        self._broker = broker
        self._lock = lock
        self._clock = clock
        self._check_open = check_open

    def topic(self, name: str) -> ObservedTopic | None:
        with self._lock:
            self._check_open()
            try:
                topic = self._broker.find_topic(name).topic
            except TopicNotFoundError:
                return None
            return ObservedTopic(topic.name, topic.address)

    def queue(self, name: str) -> ObservedQueue | None:
        with self._lock:
            self._check_open()
            try:
                return self._observed(self._broker.find_queue(name))
            except QueueNotFoundError:
                return None

    def tagged_queues(self, key: str, value: str) -> list[ObservedQueue]:
        with self._lock:
            self._check_open()
            queues = [self._observed(queue) for queue in self._broker.queues.values()]
        return [queue for queue in queues if queue.tags.get(key) == value]

    def subscriptions_of(self, topic: ObservedTopic) -> list[ObservedSubscription]:
        with self._lock:
            self._check_open()
            found = self._broker.topics.get(topic.address)
            return [self._subscription(found, queue) for queue in found.bindings] if found else []

    def subscriptions_into(self, queue: ObservedQueue) -> list[ObservedSubscription]:
        with self._lock:
            self._check_open()
            target = self._broker.queues.get(queue.address)
            if target is None:
                return []
            return [self._subscription(topic, target) for topic in self._broker.topics_of(target)]

    def policy_problem(self, queue: ObservedQueue, topic: ObservedTopic) -> str | None:
        return None

    def key_problem(self, queue: ObservedQueue) -> str | None:
        return None

    def set_raw_delivery(self, subscription: ObservedSubscription) -> None:
        """Do nothing: there are no envelopes."""

    def set_dead_letter_queue(self, subscription: ObservedSubscription, queue: ObservedQueue) -> None:
        """Do nothing: every message reaches its queues."""

    def unsubscribe(self, subscription: ObservedSubscription) -> None:
        with self._lock:
            self._check_open()
            topic = self._broker.topics.get(subscription.topic_address)
            queue = self._broker.queues.get(subscription.queue_arn)
            if topic is not None and queue is not None:
                topic.unbind(queue)

    def _observed(self, queue: MemoryQueue) -> ObservedQueue:
        depth = queue.stored.measure(self._clock.monotonic())
        dead_letters = queue.queue.dead_letter_queue
        return ObservedQueue(
            name=queue.queue.name,
            address=queue.queue.address,
            arn=queue.queue.address,
            retention_seconds=queue.stored.retention_seconds,
            visibility_timeout_seconds=_VISIBILITY_SECONDS,
            message_count=depth.visible + depth.in_flight + depth.delayed,
            dead_letter_queue=dead_letters.address if dead_letters else None,
            max_receive_count=queue.queue.max_receive_count,
            tags=dict(self._broker.tags.get(queue.queue.address, {})),
        )

    @staticmethod
    def _subscription(topic: MemoryTopic, queue: MemoryQueue) -> ObservedSubscription:
        return ObservedSubscription(
            address=f"{topic.topic.address}:{queue.queue.name}",
            topic_address=topic.topic.address,
            queue_arn=queue.queue.address,
            event_filter=topic.bindings[queue],
        )
