"""Which topics and queues there are, and how declaring changes them."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

from melange.drivers.base import UNCHANGED, Queue, Topic
from melange.drivers.limits import FIFO_SUFFIX, check_topic_name
from melange.drivers.memory.fifo import FifoQueue
from melange.drivers.memory.queues import MemoryQueue
from melange.drivers.memory.standard import StandardQueue
from melange.drivers.memory.topics import MemoryTopic
from melange.drivers.queue_wishes import DEFAULT_MAX_RECEIVE_COUNT, QueueWishes
from melange.errors import ConfigurationError, QueueNotFoundError, TopicNotFoundError, nearest

_TOPIC_ARN = "arn:aws:sns:memory:000000000000:"
_QUEUE_ARN = "arn:aws:sqs:memory:000000000000:"


class Topology:
    """The driver's topics and queues by name. Guarded by the driver's lock, which ``lock`` is."""

    def __init__(self, lock: threading.Lock) -> None:
        self.topics: dict[str, MemoryTopic] = {}
        self.queues: dict[str, MemoryQueue] = {}
        self._lock = lock
        self._numbers = itertools.count()

    def find_topic(self, name: str) -> MemoryTopic:
        """Return the topic of this name or ARN, or raise ``TopicNotFoundError``."""
        topic = self.topics.get(name) or self.topics.get(str(name).removeprefix(_TOPIC_ARN))
        if topic is None:
            raise TopicNotFoundError(name, nearest(str(name), self.topics))
        return topic

    def find_queue(self, name: str) -> MemoryQueue:
        """Return the queue of this name or ARN, or raise ``QueueNotFoundError``."""
        queue = self.queues.get(name) or self.queues.get(str(name).removeprefix(_QUEUE_ARN))
        if queue is None:
            raise QueueNotFoundError(name, nearest(str(name), self.queues))
        return queue

    def declare_topic(self, name: str, content_based_deduplication: bool | None) -> Topic:
        """See ``MessagingDriver.declare_topic``."""
        check_topic_name(name)
        is_fifo = name.endswith(FIFO_SUFFIX)
        if content_based_deduplication and not is_fifo:
            raise ConfigurationError(
                f"content_based_deduplication= is for FIFO topics, and {name!r} is none: name it {name + FIFO_SUFFIX!r}"
            )
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = MemoryTopic(Topic(name, _TOPIC_ARN + name, is_fifo=is_fifo))
        if content_based_deduplication is not None:
            topic.content_based_deduplication = content_based_deduplication
        return topic.topic

    def declare_queue(self, wishes: QueueWishes) -> Queue:
        """See ``MessagingDriver.declare_queue``. What cannot be is found out before anything is changed."""
        wishes.check()
        topics = [self.find_topic(topic.name) for topic in wishes.topics]
        existing = self.queues.get(wishes.name)
        dead_letters, max_receive_count = self._dead_letters(wishes, existing)

        queue = existing or self._create(wishes)
        queue.dead_letters = dead_letters
        queue.queue = replace(
            queue.queue,
            dead_letter_queue=dead_letters.queue if dead_letters else None,
            max_receive_count=max_receive_count,
        )
        if wishes.retention_seconds is not None:
            queue.retention_seconds = wishes.retention_seconds
        if wishes.content_based_deduplication is not None:
            queue.content_based_deduplication = wishes.content_based_deduplication
        for topic in topics:
            topic.bind(queue, wishes.event_filter)
        return queue.queue

    def delete_topic(self, name: str) -> None:
        """Remove the topic and its bindings, if it is there."""
        self.topics.pop(name, None)

    def delete_queue(self, name: str) -> None:
        """Remove the queue and its bindings, if it is there; who receives from it is woken."""
        deleted = self.queues.pop(name, None)
        if deleted is None:
            return
        deleted.wake_all()
        for topic in self.topics.values():
            topic.unbind(name)
        for queue in self.queues.values():
            if queue.dead_letters is deleted:
                queue.dead_letters = None
                queue.queue = replace(queue.queue, dead_letter_queue=None, max_receive_count=None)

    def _create(self, wishes: QueueWishes) -> MemoryQueue:
        kind = FifoQueue if wishes.is_fifo else StandardQueue
        handle = Queue(wishes.name, _QUEUE_ARN + wishes.name, is_fifo=wishes.is_fifo)
        queue = self.queues[wishes.name] = kind(handle, self._lock, self._numbers)
        return queue

    def _dead_letters(
        self, wishes: QueueWishes, existing: MemoryQueue | None
    ) -> tuple[MemoryQueue | None, int | None]:
        """Return where dead letters shall go and after how many receives."""
        if wishes.dead_letter_queue is UNCHANGED:
            target = existing.dead_letters if existing else None
        elif wishes.dead_letter_queue is None:
            target = None
        else:
            target = self.find_queue(wishes.dead_letter_queue.name)
        if target is not None:
            current = existing.queue.max_receive_count if existing else None
            return target, wishes.max_receive_count or current or DEFAULT_MAX_RECEIVE_COUNT
        if wishes.max_receive_count is not None:
            raise ConfigurationError(
                f"queue {wishes.name!r} has no dead-letter queue: max_receive_count= needs dead_letter_queue="
            )
        return None, None
