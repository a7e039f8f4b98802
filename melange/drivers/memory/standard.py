"""Standard queues."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from melange.drivers.base import Queue
from melange.drivers.memory.copies import Copy
from melange.drivers.memory.queues import MemoryQueue
from melange.messages import Message


class StandardQueue(MemoryQueue):
    """A queue in the order of arrival; what comes back goes to the end, so that it holds nobody up."""

    def __init__(self, queue: Queue, lock: threading.Lock, numbers: Iterator[int]) -> None:
        super().__init__(queue, lock, numbers)
        self._line: deque[Copy] = deque()

    def put(self, message: Message, now: float, delay_seconds: int = 0) -> None:
        if message.message_deduplication_id is not None:
            # What came through a FIFO topic arrives without its id: standard queues know none.
            message = message._replace(message_deduplication_id=None)
        self._store(message, now, delay_seconds)

    def _append(self, copy: Copy) -> None:
        self._line.append(copy)

    def _select(self, limit: int) -> list[Copy]:
        line = self._line
        return [line.popleft() for _ in range(min(limit, len(line)))]

    def _put_back(self, copy: Copy) -> None:
        self._line.append(copy)

    def _forget(self, copy: Copy) -> None:
        pass

    def _forget_all(self) -> None:
        self._line.clear()
