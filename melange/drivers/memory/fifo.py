"""FIFO queues: order within a message group, and deduplication."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from melange.drivers.memory.deduplication import DeduplicationWindow
from melange.drivers.memory.queue import VISIBLE, Copy, MemoryQueue
from melange.messages import Queue

SEARCHED_MESSAGES = 120_000
"""How far SQS looks into a FIFO queue for a group that is not blocked.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-understanding-logic.html
"""


class FifoQueue(MemoryQueue):
    """A queue that keeps order within each message group and deduplicates.

    Of a group, the messages before its first invisible one can be received. So at most its first ten are in
    flight, and finding one in its group is cheap.
    """

    _window: DeduplicationWindow

    def __init__(self, queue: Queue, broker: str, numbers: Iterator[int]) -> None:
        super().__init__(queue, broker, numbers)
        self._groups: dict[str | None, deque[Copy]] = {}  # all messages of a group, in order
        self._ready: OrderedDict[str | None, None] = (
            OrderedDict()
        )  # groups with a first message that may be visible
        self._in_sight = 0  # the number of messages in groups
        self._out_of_sight: deque[Copy] = deque()  # behind so many others that SQS does not look at it
        self._window = DeduplicationWindow()

    def purge(self) -> None:
        self._window.clear()  # SQS accepts an id again after a purge
        super().purge()

    def _line_up(self, copy: Copy) -> None:
        if self._out_of_sight or self._in_sight == SEARCHED_MESSAGES:
            self._out_of_sight.append(copy)
        else:
            self._join_group(copy)

    def _join_group(self, copy: Copy) -> None:
        self._in_sight += 1
        group_id = copy.message.message_group_id
        group = self._groups.get(group_id)
        if group is None:
            self._groups[group_id] = deque([copy])
            self._ready[group_id] = None
        else:
            group.append(copy)

    def _select(self, limit: int) -> list[Copy]:
        selected: list[Copy] = []
        while self._ready and len(selected) < limit:
            group_id, _ = self._ready.popitem(last=False)
            for copy in self._groups.get(group_id, ()):
                if copy.visible_at != VISIBLE or len(selected) == limit:
                    break
                selected.append(copy)
        return selected

    def _come_back(self, copy: Copy) -> None:
        group_id = copy.message.message_group_id
        if self._groups[group_id][0] is copy:
            self._ready[group_id] = None

    def _remove(self, copy: Copy) -> None:
        group_id = copy.message.message_group_id
        group = self._groups[group_id]
        group.remove(copy)
        self._in_sight -= 1
        if not group:
            del self._groups[group_id]
        elif group[0].visible_at == VISIBLE:
            self._ready[group_id] = None
        if self._out_of_sight:
            self._join_group(self._out_of_sight.popleft())

    def _clear_lines(self) -> None:
        self._groups.clear()
        self._ready.clear()
        self._out_of_sight.clear()
        self._in_sight = 0

    def _index(self, now: float) -> None:
        self._is_indexed = False
        for copy in self._copies.values():
            deduplication_id = copy.message.message_deduplication_id
            if not self._window.holds(deduplication_id, copy.sent_at):
                self._window.remember(deduplication_id, copy.sent_at)
        super()._index(now)

    def _dead_letter_of(self, copy: Copy, now: float) -> Copy:
        # As SQS does: the age starts again, and the broker's id of the message is its deduplication id, so that two
        # messages with the same one are both kept.
        message = copy.message._replace(message_deduplication_id=f"{self._broker}-{copy.origin}")
        return Copy(message, next(self._numbers), copy.origin, now, copy.receive_count)
