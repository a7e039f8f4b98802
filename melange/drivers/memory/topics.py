"""Topics: each bound queue whose filter lets a message pass gets its own copy."""

from __future__ import annotations

import json

from melange.drivers.base import EventFilter, Topic
from melange.drivers.memory.deduplication import (
    DeduplicationWindow,
    deduplication_id_of,
    with_deduplication_id,
)
from melange.drivers.memory.queues import MemoryQueue
from melange.messages import Message


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
