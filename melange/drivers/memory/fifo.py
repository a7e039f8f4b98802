"""FIFO queues: order within a group, by keeping the group back while any message of it is in flight."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from operator import attrgetter

from melange.drivers.base import Queue
from melange.drivers.memory.copies import Copy
from melange.drivers.memory.deduplication import (
    DeduplicationWindow,
    deduplication_id_of,
    with_deduplication_id,
)
from melange.drivers.memory.queues import MemoryQueue
from melange.messages import Message


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
