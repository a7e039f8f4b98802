"""FIFO queues: order within a group, by keeping the group back while any message of it is in flight."""

# MERGED DOCS: Deduplication of FIFO topics and queues: an id counts once within five minutes.

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from operator import attrgetter

from melange.drivers.memory.queue import Copy, MemoryQueue
from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS
from melange.messages import Message, Queue


class DeduplicationWindow:
    """The deduplication ids of the last five minutes.

    An id is remembered from its first use on, whatever became of the message, and a repetition does not
    prolong that. Forgetting costs no more than remembering did.
    """

    __slots__ = ("_by_age", "_ids")

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._by_age: deque[tuple[float, str]] = deque()

    def admit(self, deduplication_id: str, now: float) -> bool:
        """Remember the id; return whether it is new."""
        while self._by_age and self._by_age[0][0] <= now:
            self._ids.remove(self._by_age.popleft()[1])
        if deduplication_id in self._ids:
            return False
        self._ids.add(deduplication_id)
        self._by_age.append((now + DEDUPLICATION_SECONDS, deduplication_id))
        return True


def deduplication_id_of(message: Message) -> str:
    """Return the message's own deduplication id, or the hash of its body: SNS and SQS ignore attributes."""
    return message.message_deduplication_id or hashlib.sha256(message.body.encode()).hexdigest()


def with_deduplication_id(message: Message, deduplication_id: str | None) -> Message:
    """Return the message with this deduplication id, itself if it has that already."""
    if message.message_deduplication_id == deduplication_id:
        return message
    return message._replace(message_deduplication_id=deduplication_id)


class _Group:
    """The messages of one group: in line, in flight (a number only), and back from flight."""

    __slots__ = ("back", "in_flight", "line")

    def __init__(self) -> None:
        self.line: deque[Copy] = deque()
        self.in_flight = 0
        self.back: list[Copy] = []


class FifoQueue(MemoryQueue):
    """A queue that keeps order within each message group and deduplicates."""

    def __init__(self, queue: Queue, lock: threading.Lock, numbers: Iterator[int]) -> None:
        super().__init__(queue, lock, numbers)
        self._groups: dict[str | None, _Group] = {}
        self._free: deque[_Group] = deque()  # groups with a line and nothing in flight
        self._window = DeduplicationWindow()

    def put(self, message: Message, now: float, delay_seconds: int = 0) -> None:
        deduplication_id = deduplication_id_of(message)
        if self._window.admit(deduplication_id, now):
            self._store(with_deduplication_id(message, deduplication_id), now, delay_seconds)

    def _append(self, copy: Copy) -> None:
        group_id = copy.message.message_group_id
        group = self._groups.get(group_id)
        if group is None:
            group = self._groups[group_id] = _Group()
            self._free.append(group)
        group.line.append(copy)

    def _select(self, limit: int) -> list[Copy]:
        selected: list[Copy] = []
        while self._free and len(selected) < limit:
            group = self._free.popleft()
            while group.line and len(selected) < limit:
                selected.append(group.line.popleft())
                group.in_flight += 1
        return selected

    def _put_back(self, copy: Copy) -> None:
        group = self._groups[copy.message.message_group_id]
        group.back.append(copy)
        self._landed(group, copy)

    def _forget(self, copy: Copy) -> None:
        self._landed(self._groups[copy.message.message_group_id], copy)

    def _landed(self, group: _Group, copy: Copy) -> None:
        group.in_flight -= 1
        if group.in_flight:
            return
        # Only now, and in order: what was in flight together comes back at different times, and all of it
        # belongs before the rest of the line.
        group.line.extendleft(sorted(group.back, key=attrgetter("number"), reverse=True))
        group.back.clear()
        if group.line:
            self._free.append(group)
            self._notify()
        else:
            del self._groups[copy.message.message_group_id]

    def _forget_all(self) -> None:
        self._groups.clear()
        self._free.clear()
