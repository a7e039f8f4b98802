"""FIFO queues: order within a message group, and deduplication."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from melange.drivers.memory.queue import VISIBLE, Copy, MemoryQueue
from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS
from melange.messages import Message, Queue

SEARCHED_MESSAGES = 120_000
"""How far SQS looks into a FIFO queue for a group that is not blocked.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-understanding-logic.html
"""


class DeduplicationWindow:
    """The deduplication ids of the last five minutes.

    An id is remembered from its first use, whatever happens to the message, and a repetition does not
    extend that. Forgetting costs as much as remembering.
    """

    __slots__ = ("_forget_at",)

    def __init__(self) -> None:
        self._forget_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._forget_at)

    def holds(self, deduplication_id: str, now: float) -> bool:
        """Return True if the id was used within the last five minutes."""
        return self._forget_at.get(deduplication_id, now) > now

    def remember(self, deduplication_id: str, used_at: float) -> None:
        """Remember a new id, and forget ids that are too old."""
        while self._forget_at and next(iter(self._forget_at.values())) <= used_at:
            self._forget_at.popitem(last=False)
        self._forget_at[deduplication_id] = used_at + DEDUPLICATION_SECONDS

    def clear(self) -> None:
        """Forget everything."""
        self._forget_at.clear()


class FifoQueue(MemoryQueue):
    """A queue that keeps order within each message group and deduplicates.

    Of a group, the messages before its first invisible one can be received. So at most its first ten are in
    flight, and finding one in its group is cheap.
    """

    def __init__(self, queue: Queue, broker: str, numbers: Iterator[int]) -> None:
        super().__init__(queue, broker, numbers)
        self._groups: dict[str | None, deque[Copy]] = {}  # all messages of a group, in order
        self._ready: OrderedDict[str | None, None] = (
            OrderedDict()
        )  # groups with a first message that may be visible
        self._in_sight = 0  # the number of messages in groups
        self._out_of_sight: deque[Copy] = deque()  # behind so many others that SQS does not look at it
        self._window = DeduplicationWindow()

    def put(
        self, message: Message, now: float, delay_seconds: int = 0, *, origin: int | None = None
    ) -> Copy | None:
        if not self._is_indexed:
            self._index(now)
        if self._window.holds(_id_of(message), now):
            return None
        return super().put(message, now, delay_seconds, origin=origin)

    def purge(self) -> None:
        self._window.clear()  # SQS accepts an id again after a purge
        super().purge()

    def _line_up(self, copy: Copy) -> None:
        # Here, where the copy is stored already: an exception in between must not leave an id without its message.
        deduplication_id = _id_of(copy.message)
        if not self._window.holds(deduplication_id, copy.sent_at):
            self._window.remember(deduplication_id, copy.sent_at)
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

    def _dead_letter_of(self, copy: Copy, now: float) -> Copy:
        # As SQS does: the age starts again, and the broker's id of the message is its deduplication id, so that two
        # messages with the same one are both kept.
        message = copy.message._replace(message_deduplication_id=f"{self._broker}-{copy.origin}")
        return Copy(message, next(self._numbers), now, origin=copy.origin, carried=copy.receive_count)


def _id_of(message: Message) -> str:
    assert message.message_deduplication_id is not None  # check_message() refuses those without
    return message.message_deduplication_id
