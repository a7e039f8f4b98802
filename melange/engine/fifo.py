"""FIFO queues: order within a message group, and deduplication of topics and queues."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS
from melange.engine.queue import VISIBLE, Copy, MessageT, StoredQueue

AnswerT = TypeVar("AnswerT")

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

    def __init__(self, numbers: Iterator[int], name_dead_letter: Callable[[Copy[MessageT]], str]) -> None:
        super().__init__(numbers)
        self._name_dead_letter = name_dead_letter
        # All messages of a group, in order.
        self._groups: dict[str | None, deque[Copy[MessageT]]] = {}
        # The groups with a first message that may be visible.
        self._ready: OrderedDict[str | None, None] = OrderedDict()
        # The number of messages in groups.
        self._in_sight = 0
        # Messages behind so many others that SQS does not look at them.
        self._out_of_sight: deque[Copy[MessageT]] = deque()
        self._window: DeduplicationWindow[int] = DeduplicationWindow()

    @property
    def window(self) -> DeduplicationWindow[int]:
        """The deduplication ids of the last five minutes."""
        return self._window

    def keep_window_in(self, window: DeduplicationWindow[int]) -> None:
        """Keep the deduplication ids in this window from now on, which has them all."""
        self._window = window

    def put(
        self,
        message: MessageT,
        now: float,
        group_id: str | None = None,
        deduplication_id: str | None = None,
        *,
        delay_seconds: float = 0,
        origin: int | None = None,
    ) -> Copy[MessageT] | None:
        if not self._is_indexed:
            self._index(now)  # which completes the window
        if self._window.find(self._deduplication_key(group_id, deduplication_id), now) is not None:
            return None
        return super().put(
            message, now, group_id, deduplication_id, delay_seconds=delay_seconds, origin=origin
        )

    def number_of_first(self, group_id: str | None, deduplication_id: str | None, now: float) -> int | None:
        return self._window.find(self._deduplication_key(group_id, deduplication_id), now)

    def purge(self) -> None:
        self._window.clear()  # SQS accepts an id again after a purge
        super().purge()

    def _line_up(self, copy: Copy[MessageT]) -> None:
        if self._out_of_sight or self._in_sight == SEARCHED_MESSAGES:
            self._out_of_sight.append(copy)
        else:
            self._join_group(copy)
        # Last: an exception in between must not leave an id without its message. A dead letter was sent elsewhere.
        key = self._deduplication_key(copy.group_id, copy.deduplication_id)
        if copy.source is None and self._window.find(key, copy.sent_at) is None:
            self._window.remember(key, copy.sent_at, copy.number)

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

    def _deduplication_key(self, group_id: str | None, deduplication_id: str | None) -> object:
        """Return what a message has in common with its duplicates."""
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


class DeduplicationWindow(Generic[AnswerT]):
    """The deduplication ids of a topic or queue of the last five minutes, and the answer to the first use of each.

    An id is remembered from its first use, whatever happens to the message, and a repetition does not
    extend that. Forgetting costs as much as remembering.
    """

    __slots__ = ("_by_age", "_first_uses")

    def __init__(self) -> None:
        self._first_uses: dict[Hashable, tuple[float, AnswerT]] = {}
        self._by_age: deque[tuple[float, Hashable]] = deque()

    def __len__(self) -> int:
        return len(self._first_uses)

    def find(self, deduplication_id: Hashable, now: float) -> AnswerT | None:
        """Return the answer to the first use of the id within the last five minutes; None if there was none."""
        first = self._first_uses.get(deduplication_id)
        return first[1] if first is not None and first[0] > now else None

    def remember(self, deduplication_id: Hashable, used_at: float, answer: AnswerT) -> None:
        """Remember an id that the window does not hold, and forget ids that are too old."""
        first_uses, by_age = self._first_uses, self._by_age
        while by_age and by_age[0][0] <= used_at:
            oldest = by_age[0][1]
            first = first_uses.get(oldest)
            if first is not None and first[0] <= used_at:
                del first_uses[oldest]
            by_age.popleft()
        self.restore(deduplication_id, used_at + DEDUPLICATION_SECONDS, answer)

    def restore(self, deduplication_id: Hashable, until: float, answer: AnswerT) -> None:
        """Remember an id until then, which is not before the time of any other id."""
        self._by_age.append((until, deduplication_id))
        self._first_uses[deduplication_id] = until, answer

    def entries(self) -> list[tuple[Hashable, float, AnswerT]]:
        """Return the ids, until when each is remembered, and the answers; in the order of those times."""
        return [
            (key, until, self._first_uses[key][1]) for until, key in self._by_age if key in self._first_uses
        ]

    def clear(self) -> None:
        """Forget everything."""
        self._first_uses.clear()
        self._by_age.clear()
