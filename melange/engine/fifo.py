"""FIFO queues: order within a message group, and deduplication."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from melange.engine.deduplication import DeduplicationWindow
from melange.engine.queue import VISIBLE, Copy, MessageT, StoredQueue

SEARCHED_MESSAGES = 120_000
"""How far SQS looks into a FIFO queue for a group that is not blocked.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-understanding-logic.html
"""


class FifoQueue(StoredQueue[MessageT]):
    """A queue that keeps order within each message group and deduplicates.

    Of a group, the messages before its first invisible one can be received. So at most its first ten are in
    flight, and finding one in its group is cheap.

    Args:
        numbers: numbers each copy in the broker, in the order of arrival.
        name_dead_letter: returns the deduplication id under which this queue, as a dead-letter queue, keeps a copy.
            As in SQS it is the broker's id of the message, so that two messages with one id of their sender are kept.
    """

    is_fifo = True
    deduplicates_by_group = False
    """True lets an id occur once in each group, instead of once in the queue."""

    _window: DeduplicationWindow[int]

    def __init__(self, numbers: Iterator[int], name_dead_letter: Callable[[Copy[MessageT]], str]) -> None:
        super().__init__(numbers)
        self._name_dead_letter = name_dead_letter
        self._groups: dict[str | None, deque[Copy[MessageT]]] = {}  # all messages of a group, in order
        self._ready: OrderedDict[str | None, None] = (
            OrderedDict()
        )  # groups with a first message that may be visible
        self._in_sight = 0  # the number of messages in groups
        self._out_of_sight: deque[Copy[MessageT]] = (
            deque()
        )  # behind so many others that SQS does not look at it
        self._window = DeduplicationWindow()

    @property
    def window(self) -> DeduplicationWindow[int]:
        """The deduplication ids of the last five minutes."""
        return self._window

    def keep_window_in(self, window: DeduplicationWindow[int]) -> None:
        """Keep the deduplication ids in this window from now on, which has them all."""
        self._window = window

    def purge(self) -> None:
        self._window.clear()  # SQS accepts an id again after a purge
        super().purge()

    def _line_up(self, copy: Copy[MessageT]) -> None:
        if self._out_of_sight or self._in_sight == SEARCHED_MESSAGES:
            self._out_of_sight.append(copy)
        else:
            self._join_group(copy)

    def _join_group(self, copy: Copy[MessageT]) -> None:
        self._in_sight += 1
        group_id = copy.group_id
        group = self._groups.get(group_id)
        if group is None:
            self._groups[group_id] = deque([copy])
            self._ready[group_id] = None
        else:
            group.append(copy)

    def _select(self, limit: int) -> list[Copy[MessageT]]:
        selected: list[Copy[MessageT]] = []
        while self._ready and len(selected) < limit:
            group_id, _ = self._ready.popitem(last=False)
            for copy in self._groups.get(group_id, ()):
                if copy.visible_at != VISIBLE or len(selected) == limit:
                    break
                selected.append(copy)
        return selected

    def _come_back(self, copy: Copy[MessageT]) -> None:
        group_id = copy.group_id
        if self._groups[group_id][0] is copy:
            self._ready[group_id] = None

    def _remove(self, copy: Copy[MessageT]) -> None:
        group_id = copy.group_id
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
        for copy in self.copies_by_number.values():
            key = self._deduplication_key(copy.group_id, copy.deduplication_id)
            if self._window.find(key, copy.sent_at) is None:
                self._window.remember(key, copy.sent_at, copy.number)
        super()._index(now)

    def _deduplication_key(self, group_id: str | None, deduplication_id: str | None) -> object:
        return (group_id, deduplication_id) if self.deduplicates_by_group else deduplication_id

    def _leave_line(self, copy: Copy[MessageT]) -> None:
        self._remove(copy)

    def _hide(self, copy: Copy[MessageT], until: float) -> Copy[MessageT]:
        copy.visible_at = until
        self._in_flight += copy.was_received
        return copy

    def _dead_letter_of(
        self, copy: Copy[MessageT], now: float, source: StoredQueue[MessageT]
    ) -> Copy[MessageT]:
        # As SQS does: the age starts again.
        return copy.moved_to(next(self._numbers), now, self._name_dead_letter(copy), source)
