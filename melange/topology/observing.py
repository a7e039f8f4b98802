"""What the broker has of a topology, looked up once for a plan or a diagnosis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from melange.drivers.base import MessagingDriver
from melange.drivers.inspection import (
    BrokerInspection,
    Inspectable,
    ObservedQueue,
    ObservedSubscription,
    ObservedTopic,
)
from melange.errors import AccessDeniedError, ConfigurationError, QueueNotFoundError, TopicNotFoundError
from melange.topology.model import TOPOLOGY_TAG, DeclaredQueue, Topology, is_address


@dataclass(frozen=True, slots=True)
class Observation:
    """The topics and queues of a topology by their declared names, None for those that do not exist."""

    inspection: BrokerInspection
    topics: dict[str, ObservedTopic | None]
    queues: dict[str, ObservedQueue | None]
    subscriptions: dict[str, list[ObservedSubscription]]
    """Those of each declared topic, without topics of other accounts that do not list them."""

    def subscription(self, topic_name: str, queue_name: str) -> ObservedSubscription | None:
        """Return the subscription of a declared queue to a declared topic."""
        queue, topic = self.queues.get(queue_name), self.topics.get(topic_name)
        if queue is None or topic is None:
            return None
        found = self.subscriptions.get(topic_name)
        if found is None:  # the topic's owner does not let us list them, so they are looked for among our own
            found = list(self.inspection.subscriptions_into(queue))
        return next(
            (one for one in found if (one.topic_address, one.queue_arn) == (topic.address, queue.arn)), None
        )

    def surplus(self, declared: DeclaredQueue) -> Iterator[ObservedSubscription]:
        """Yield the subscriptions of an existing queue to topics that it does not name."""
        queue = self.queues[declared.name]
        if queue is None:
            return
        named = {self._topic_address(binding.topic) for binding in declared.bindings}
        for subscription in self.inspection.subscriptions_into(queue):
            if subscription.address and subscription.topic_address not in named:
                yield subscription

    def left_behind(self, topology_name: str) -> Iterator[ObservedQueue]:
        """Yield the queues that are marked for the topology and not declared any more."""
        wanted = {queue.address for queue in self.queues.values() if queue is not None}
        kept = {queue.dead_letter_queue for queue in self.queues.values() if queue is not None}
        for queue in self.inspection.tagged_queues(TOPOLOGY_TAG, topology_name):
            if queue.address not in wanted and queue.arn not in kept:
                yield queue

    @staticmethod
    def dead_letter_sources(queues: Sequence[ObservedQueue]) -> dict[str, ObservedQueue]:
        """Return the sources among the queues, by the ARNs of their dead-letter queues: a rename takes both."""
        return {queue.dead_letter_queue: queue for queue in queues if queue.dead_letter_queue is not None}

    def strangers(self) -> Iterator[tuple[str, ObservedQueue]]:
        """Yield the names of our topics, each with a queue in this account that it feeds and that is not declared."""
        ours = {queue.arn for queue in self.queues.values() if queue is not None}
        for topic_name, subscriptions in self.subscriptions.items():
            for arn in sorted({one.queue_arn for one in subscriptions} - ours):
                try:
                    queue = self.inspection.queue(arn)
                except (AccessDeniedError, ConfigurationError):  # of another account or region
                    continue
                if queue is not None:
                    yield topic_name, queue

    def _topic_address(self, name: str) -> str | None:
        topic = self.topics.get(name)
        return topic.address if topic is not None else None


def inspection_of(driver: MessagingDriver) -> BrokerInspection:
    """Return the driver's inspection.

    Raises:
        ConfigurationError: the driver has none.
    """
    if not isinstance(driver, Inspectable):
        raise ConfigurationError(
            f"{type(driver).__name__} has no inspection(), by which a topology is compared with its broker: "
            "see melange.drivers.inspection"
        )
    return driver.inspection()


def observe(topology: Topology, driver: MessagingDriver) -> Observation:
    """Look up what the topology names.

    Raises:
        TopicNotFoundError, QueueNotFoundError: something given as ARN or URL does not exist.
        ConfigurationError: the driver has no inspection, or the topology has another prefix.
        DriverError: the broker is unavailable, or a permission is missing.
    """
    if driver.prefix != topology.prefix:
        raise ConfigurationError(
            f"the topology has the prefix {topology.prefix!r} and the driver {driver.prefix!r}: use the same for both"
        )
    inspection = inspection_of(driver)
    topics = {topic.name: inspection.topic(topic.name) for topic in topology.topics}
    queues = {queue.name: inspection.queue(queue.name) for queue in topology.queues}
    for name in (name for name, topic in topics.items() if topic is None and is_address(name)):
        raise TopicNotFoundError(name, ": its owner creates it")
    for name in (name for name, queue in queues.items() if queue is None and is_address(name)):
        raise QueueNotFoundError(name, ": its owner creates it")
    subscriptions = {}
    for name, topic in topics.items():
        found = None if topic is None else _subscriptions_of(inspection, topic, is_foreign=is_address(name))
        if found is not None:
            subscriptions[name] = found
    return Observation(inspection, topics, queues, subscriptions)


def _subscriptions_of(
    inspection: BrokerInspection, topic: ObservedTopic, *, is_foreign: bool
) -> list[ObservedSubscription] | None:
    """Return the topic's subscriptions; None if its owner, another account, does not let us list them."""
    try:
        return list(inspection.subscriptions_of(topic))
    except AccessDeniedError:
        if not is_foreign:
            raise
        return None
