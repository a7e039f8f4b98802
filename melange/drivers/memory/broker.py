"""The in-memory broker: its topics and queues, how declaring changes them, and which deliveries may be settled."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

from melange.drivers.base import Binding, EventFilter, NoDeadLetterQueue
from melange.drivers.queue_spec import DEFAULT_MAX_RECEIVE_COUNT, NamePrefix, QueueSpec
from melange.drivers.sqs_rules import FIFO_SUFFIX, MAX_VISIBILITY_SECONDS, check_queue_name, check_topic_name
from melange.engine.fifo import DeduplicationWindow, FifoQueue
from melange.engine.queue import Copy, StoredQueue
from melange.engine.standard import Disorder
from melange.errors import (
    ConfigurationError,
    LeaseLostError,
    QueueNotFoundError,
    TopicNotFoundError,
    nearest,
)
from melange.messages import Delivery, Message, Queue, Topic, new_uuid


class MemoryBroker:
    """The topics and queues of one broker by address. Guarded by the driver's lock, and so are they."""

    def __init__(self, disorder: Disorder, prefix: NamePrefix) -> None:
        self._prefix = prefix
        self.topics: dict[str, MemoryTopic] = {}
        self.queues: dict[str, MemoryQueue] = {}
        self.tags: dict[str, dict[str, str]] = {}
        """By the queue's address."""
        self._disorder = disorder
        self._token = new_uuid()  # which no other broker shares
        self._topic_arn = f"arn:aws:sns:memory:{self._token}:{prefix.text}"
        self._queue_arn = f"arn:aws:sqs:memory:{self._token}:{prefix.text}"
        self._numbers = itertools.count()

    def topic(self, topic: Topic) -> MemoryTopic:
        """Return the broker's side of a topic, or raise ``TopicNotFoundError``."""
        found = self.topics.get(topic.address)
        if found is None:
            raise TopicNotFoundError(topic.name, _advice(topic, self.topic_names()))
        return found

    def queue(self, queue: Queue) -> MemoryQueue:
        """Return the broker's side of a queue, or raise ``QueueNotFoundError``."""
        found = self.queues.get(queue.address)
        if found is None:
            raise QueueNotFoundError(queue.name, _advice(queue, self.queue_names()))
        return found

    def find_topic(self, name: str) -> MemoryTopic:
        """Return the topic of this name or ARN, or raise ``TopicNotFoundError``."""
        topic = self.topics.get(f"{self._topic_arn}{name}") or self.topics.get(name)
        if topic is None:
            raise TopicNotFoundError(name, nearest(str(name), self.topic_names()))
        return topic

    def find_queue(self, name: str) -> MemoryQueue:
        """Return the queue of this name or ARN, or raise ``QueueNotFoundError``."""
        queue = self.queues.get(f"{self._queue_arn}{name}") or self.queues.get(name)
        if queue is None:
            raise QueueNotFoundError(name, nearest(str(name), self.queue_names()))
        return queue

    def declare_topic(self, name: str) -> Topic:
        """See ``MessagingDriver.declare_topic``."""
        check_topic_name(name)
        check_topic_name(self._prefix.add(name))
        address = self._topic_arn + name
        if address not in self.topics:
            is_fifo = name.endswith(FIFO_SUFFIX)
            kind = FifoTopic if is_fifo else MemoryTopic
            self.topics[address] = kind(Topic(name, address, is_fifo=is_fifo))
        return self.topics[address].topic

    def declare_queue(self, spec: QueueSpec, tags: Mapping[str, str]) -> Queue:
        """See ``MessagingDriver.declare_queue``. Contradictions are found before anything is changed."""
        spec.check()
        check_queue_name(self._prefix.add(spec.name))
        topics = [self.topic(topic) for topic in spec.topics]
        existing = self.queues.get(self._queue_arn + spec.name)
        dead_letters, max_receive_count = self._dead_letters(spec, existing)

        queue = existing or self._create(spec)
        handle = replace(
            queue.queue,
            dead_letter_queue=dead_letters.queue if dead_letters else None,
            max_receive_count=max_receive_count,
        )
        queue.queue = handle
        queue.stored.dead_letters = dead_letters.stored if dead_letters else None
        queue.stored.max_receive_count = max_receive_count
        if spec.retention_seconds is not None:
            queue.stored.retention_seconds = spec.retention_seconds
        if tags:
            self.tags.setdefault(handle.address, {}).update(tags)
        for topic in topics:
            topic.bind(queue, spec.event_filter)
        return queue.queue

    def delete_topic(self, topic: Topic) -> None:
        """Remove the topic and its bindings, if it exists."""
        self.topics.pop(topic.address, None)

    def delete_queue(self, queue: Queue) -> None:
        """Remove the queue and its bindings, if it exists; wake receives that wait for it.

        The queue itself is removed last, so that an interrupted call can be repeated.
        """
        deleted = self.queues.get(queue.address)
        if deleted is None:
            return
        for topic in self.topics.values():
            topic.unbind(deleted)
        for source in self.sources_of(deleted):
            handle = replace(source.queue, dead_letter_queue=None, max_receive_count=None)
            source.queue, source.stored.dead_letters = handle, None
        deleted.stored.waiters.wake_all()
        self.tags.pop(queue.address, None)
        self.queues.pop(queue.address)

    def bindings_of(self, queue: Queue) -> list[Binding]:
        """See ``BrokerAdministration.list_bindings``."""
        target = self.queue(queue)
        return [Binding(topic.topic, topic.bindings[target]) for topic in self.topics_of(target)]

    def topics_of(self, queue: MemoryQueue) -> list[MemoryTopic]:
        """Return the topics that the queue is bound to."""
        return [topic for topic in self.topics.values() if queue in topic.bindings]

    def sources_of(self, dead_letter_queue: MemoryQueue) -> list[MemoryQueue]:
        """Return the queues that send their dead letters here."""
        target = dead_letter_queue.stored
        return [queue for queue in self.queues.values() if queue.stored.dead_letters is target]

    def topic_names(self) -> list[str]:
        return [topic.topic.name for topic in self.topics.values()]

    def queue_names(self) -> list[str]:
        return [queue.queue.name for queue in self.queues.values()]

    def _create(self, spec: QueueSpec) -> MemoryQueue:
        handle = Queue(spec.name, self._queue_arn + spec.name, is_fifo=spec.is_fifo)
        stored: StoredQueue[Message]
        if spec.is_fifo:
            stored = FifoQueue(self._numbers, lambda copy: f"{self._token}-{copy.origin}")
        else:
            stored = self._disorder.new_queue(spec.name, self._numbers)
        queue = self.queues[handle.address] = MemoryQueue(handle, stored, self._token, self._numbers)
        return queue

    def _queue_of(self, stored: StoredQueue[Message] | None) -> MemoryQueue | None:
        return next((queue for queue in self.queues.values() if queue.stored is stored), None)

    def _dead_letters(
        self, spec: QueueSpec, existing: MemoryQueue | None
    ) -> tuple[MemoryQueue | None, int | None]:
        """Return the dead-letter queue and the limit of receives."""
        if spec.dead_letter_queue is None:
            target = self._queue_of(existing.stored.dead_letters) if existing else None
        elif isinstance(spec.dead_letter_queue, NoDeadLetterQueue):
            target = None
        else:
            target = self.queue(spec.dead_letter_queue)
        if target is not None:
            current = existing.queue.max_receive_count if existing else None
            return target, spec.max_receive_count or current or DEFAULT_MAX_RECEIVE_COUNT
        if spec.max_receive_count is not None:
            raise ConfigurationError(
                f"queue {spec.name!r} has no dead-letter queue: max_receive_count= needs dead_letter_queue="
            )
        return None, None


class MemoryTopic:
    """A topic and its bindings: each bound queue with a filter that accepts a message gets a copy."""

    __slots__ = ("bindings", "topic")

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.bindings: dict[MemoryQueue, EventFilter | None] = {}
        """The queues with their filters; None takes everything."""

    def bind(self, queue: MemoryQueue, event_filter: EventFilter | None) -> None:
        """Bind the queue; an existing binding keeps its filter unless another is given."""
        if event_filter is not None or queue not in self.bindings:
            self.bindings[queue] = event_filter if event_filter and event_filter.event_type_names else None

    def unbind(self, queue: MemoryQueue) -> None:
        """Remove the queue's binding, if there is one."""
        self.bindings.pop(queue, None)

    def publish(self, message: Message, now: float) -> None:
        """Give each bound queue its own copy."""
        for queue, event_filter in self.bindings.items():
            if event_filter is None or _lets_pass(event_filter, message):
                queue.stored.put(message, now, message.message_group_id, message.message_deduplication_id)


class FifoTopic(MemoryTopic):
    """A topic that deduplicates; only its FIFO queues receive the groups."""

    __slots__ = ("_window",)

    def __init__(self, topic: Topic) -> None:
        super().__init__(topic)
        self._window: DeduplicationWindow[bool] = DeduplicationWindow()

    def publish(self, message: Message, now: float) -> None:
        if self._window.find(message.message_deduplication_id, now):
            return
        for queue, event_filter in self.bindings.items():
            if event_filter is not None and not _lets_pass(event_filter, message):
                continue
            if queue.queue.is_fifo:
                queue.stored.put(message, now, message.message_group_id, message.message_deduplication_id)
            else:
                queue.stored.put(message._replace(message_group_id=None, message_deduplication_id=None), now)
        # Last: after an exception in between the message is published again, and queues that have it recognise it.
        self._window.remember(message.message_deduplication_id, now, True)


class MemoryQueue:
    """A stored queue with the driver's rules: only the current receiver settles a message.

    Args:
        queue: the object that callers use.
        stored: keeps the messages.
        token: the broker's own token, which no other broker shares.
        numbers: the broker's numbers.
    """

    __slots__ = ("_seal", "_token", "queue", "stored")

    def __init__(
        self, queue: Queue, stored: StoredQueue[Message], token: str, numbers: Iterator[int]
    ) -> None:
        self.queue = queue
        self.stored = stored
        self._token = token
        self._seal = f"{token}.{next(numbers)}"  # ends each receipt handle of this queue

    def take(self, limit: int, now: float, visibility_timeout_seconds: int) -> list[Delivery]:
        """Deliver up to ``limit`` visible messages."""
        queue, seal, token = self.queue, self._seal, self._token
        deadline = now + visibility_timeout_seconds
        deliveries: list[Delivery] = []
        for copy in self.stored.take(limit, now, visibility_timeout_seconds):
            message = copy.message
            if message.message_deduplication_id is not copy.deduplication_id:
                message = _message_of(copy)
            handle = f"{copy.number}-{copy.receive_count}-{seal}"
            broker_message_id = f"{token}-{copy.origin}"
            fields = (message, queue, handle, copy.receive_count, deadline, broker_message_id, None)
            deliveries.append(tuple.__new__(Delivery, fields))  # in half of the time of Delivery(...)
        return deliveries

    def acknowledge(self, delivery: Delivery, now: float) -> LeaseLostError | None:
        """Remove the delivery's message; return the reason if that fails. A second time is not a failure."""
        copy = self._held(delivery, now)
        if copy is None:
            return self._why_not_held(delivery, now, or_acknowledged=True)
        self.stored.remove(copy, now)
        return None

    def defer(self, delivery: Delivery, seconds: int, now: float) -> LeaseLostError | None:
        """Make the delivery's message visible after ``seconds``, or at the longest visibility timeout."""
        copy = self._held(delivery, now)
        if copy is None:
            return self._why_not_held(delivery, now, or_acknowledged=False)
        self.stored.show_at(copy, min(now + seconds, copy.received_at + MAX_VISIBILITY_SECONDS), now)
        return None

    def arrival_of(self, delivery: Delivery) -> tuple[float | None, bool]:
        """Return the time when the delivery's message was sent, and True if another queue had received it too often.

        The time is None if the message was removed meanwhile.
        """
        copy = self.stored.copies_by_number.get(int(delivery.receipt_handle.partition("-")[0]))
        return (None, False) if copy is None else (copy.sent_at, copy.carried > 0)

    def messages(self) -> list[Message]:
        """Return all messages in the order of arrival, invisible ones included."""
        return [_message_of(copy) for copy in self.stored.copies]

    def _held(self, delivery: Delivery, now: float) -> Copy[Message] | None:
        """Return the copy that the delivery's receiver still holds, or None."""
        number, _, rest = delivery.receipt_handle.partition("-")
        try:
            copy = self.stored.copies_by_number.get(int(number))
        except ValueError:
            return None
        if (
            copy is not None
            and rest == f"{copy.receive_count}-{self._seal}"
            and now < copy.visible_at
            and now < delivery.deadline  # a broker that cannot detect stale handles has only this
        ):
            return copy
        return None

    def _why_not_held(
        self, delivery: Delivery, now: float, *, or_acknowledged: bool
    ) -> LeaseLostError | None:
        message_id, (number, _, rest) = delivery.message.message_id, delivery.receipt_handle.partition("-")
        if not rest.endswith(f"-{self._seal}"):
            return LeaseLostError(
                f"message {message_id} was never received from queue {self.queue.name!r} with this receipt handle: "
                "settle deliveries as receive() returned them"
            )
        if (
            or_acknowledged
            and self.stored.copies_by_number.get(int(number)) is None
            and now < delivery.deadline
        ):
            return None
        return LeaseLostError(
            f"message {message_id} of queue {self.queue.name!r} is past its "
            "deadline: another receiver may have it"
        )


def _lets_pass(event_filter: EventFilter, message: Message) -> bool:
    in_body = event_filter.scope == "body"
    event_type_name = _type_in_body(message.body) if in_body else message.event_type_name
    return event_type_name in event_filter.event_type_names


def _type_in_body(body: str) -> str | None:
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return None
    event_type_name = event.get("event_type_name") if isinstance(event, dict) else None
    return event_type_name if isinstance(event_type_name, str) else None


def _message_of(copy: Copy[Message]) -> Message:
    if copy.message.message_deduplication_id is copy.deduplication_id:
        return copy.message
    # A dead letter has a new deduplication id.
    return copy.message._replace(message_deduplication_id=copy.deduplication_id)


def _advice(handle: Topic | Queue, names: list[str]) -> str:
    if handle.name in names:
        return f" at {handle.address}: this driver has one of that name, and this handle comes from another driver"
    return nearest(str(handle.name), names)
