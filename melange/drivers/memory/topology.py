"""Which topics and queues there are, and how declaring changes them."""

# MERGED DOCS: Topics: each bound queue whose filter lets a message pass gets its own copy.

from __future__ import annotations

import itertools
import json
import threading
from dataclasses import replace

from melange.drivers.base import EventFilter, NoDeadLetterQueue
from melange.drivers.memory.fifo import (
    DeduplicationWindow,
    FifoQueue,
    deduplication_id_of,
    with_deduplication_id,
)
from melange.drivers.memory.queue import MemoryQueue, StandardQueue
from melange.drivers.queue_spec import DEFAULT_MAX_RECEIVE_COUNT, QueueSpec
from melange.drivers.sqs_rules import FIFO_SUFFIX, check_topic_name
from melange.errors import ConfigurationError, QueueNotFoundError, TopicNotFoundError, nearest
from melange.messages import Message, Queue, Topic


class MemoryTopic:
    """A topic and its bindings. Guarded by the driver's lock."""

    __slots__ = ("_bindings", "_window", "content_based_deduplication", "topic")

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.content_based_deduplication = False
        self._bindings: dict[str, Binding] = {}
        self._window = DeduplicationWindow()

    def bind(self, queue: MemoryQueue, event_filter: EventFilter | None) -> None:
        """Bind the queue; a binding that is there keeps its filter unless one is named."""
        if event_filter is not None or queue.queue.name not in self._bindings:
            self._bindings[queue.queue.name] = Binding(queue, event_filter)

    def unbind(self, queue_name: str) -> None:
        """Take off the queue's binding, if there is one."""
        self._bindings.pop(queue_name, None)

    def publish(self, message: Message, now: float) -> None:
        """Give each bound queue its own copy."""
        if self.topic.is_fifo:
            deduplication_id = deduplication_id_of(message)
            if not self._window.admit(deduplication_id, now):
                return
            # The queues get the id too: one of them may not derive it from the content.
            message = with_deduplication_id(message, deduplication_id)
        for binding in self._bindings.values():
            if binding.event_type_names is None or binding.lets_pass(message):
                binding.queue.put(message, now)


class Binding:
    """One queue's interest in one topic; ``event_type_names`` is None when it wants everything."""

    __slots__ = ("_reads_body", "event_type_names", "queue")

    def __init__(self, queue: MemoryQueue, event_filter: EventFilter | None) -> None:
        self.queue = queue
        self.event_type_names = None if event_filter is None else frozenset(event_filter.event_type_names)
        self._reads_body = event_filter is not None and event_filter.scope == "body"

    def lets_pass(self, message: Message) -> bool:
        """Return whether the queue wants this message."""
        if self.event_type_names is None:
            return True
        event_type_name = _type_in_body(message.body) if self._reads_body else message.event_type_name
        return event_type_name in self.event_type_names


def _type_in_body(body: str) -> str | None:
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return None
    event_type_name = event.get("event_type_name") if isinstance(event, dict) else None
    return event_type_name if isinstance(event_type_name, str) else None


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

    def declare_queue(self, spec: QueueSpec) -> Queue:
        """See ``MessagingDriver.declare_queue``. What cannot be is found out before anything is changed."""
        spec.check()
        topics = [self.find_topic(topic.name) for topic in spec.topics]
        existing = self.queues.get(spec.name)
        dead_letters, max_receive_count = self._dead_letters(spec, existing)

        queue = existing or self._create(spec)
        queue.dead_letters = dead_letters
        queue.queue = replace(
            queue.queue,
            dead_letter_queue=dead_letters.queue if dead_letters else None,
            max_receive_count=max_receive_count,
        )
        if spec.retention_seconds is not None:
            queue.retention_seconds = spec.retention_seconds
        if spec.content_based_deduplication is not None:
            queue.content_based_deduplication = spec.content_based_deduplication
        for topic in topics:
            topic.bind(queue, spec.event_filter)
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

    def _create(self, spec: QueueSpec) -> MemoryQueue:
        kind = FifoQueue if spec.is_fifo else StandardQueue
        handle = Queue(spec.name, _QUEUE_ARN + spec.name, is_fifo=spec.is_fifo)
        queue = self.queues[spec.name] = kind(handle, self._lock, self._numbers)
        return queue

    def _dead_letters(
        self, spec: QueueSpec, existing: MemoryQueue | None
    ) -> tuple[MemoryQueue | None, int | None]:
        """Return where dead letters shall go and after how many receives."""
        if spec.dead_letter_queue is None:
            target = existing.dead_letters if existing else None
        elif isinstance(spec.dead_letter_queue, NoDeadLetterQueue):
            target = None
        else:
            target = self.find_queue(spec.dead_letter_queue.name)
        if target is not None:
            current = existing.queue.max_receive_count if existing else None
            return target, spec.max_receive_count or current or DEFAULT_MAX_RECEIVE_COUNT
        if spec.max_receive_count is not None:
            raise ConfigurationError(
                f"queue {spec.name!r} has no dead-letter queue: max_receive_count= needs dead_letter_queue="
            )
        return None, None
