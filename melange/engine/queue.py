"""What all queues have, as SQS keeps them: visibility, delays, retention, dead letters.

The copies are the truth. Lines, groups, deadlines and counts are only an index of them. An exception may strike in the
middle of any operation: Ctrl-C, the time limit of a test. CPython raises those at calls and at the end of a loop
iteration, never between plain assignments. So each change of a copy is a sequence of plain assignments, and the index
is marked as outdated while it changes: the next operation that finds the mark builds it again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from melange.drivers.base import QueueDepth
from melange.drivers.sqs_rules import DEFAULT_RETENTION_SECONDS, MAX_IN_FLIGHT
from melange.engine.waiting import Waiters

MessageT = TypeVar("MessageT")

VISIBLE = -math.inf
"""The ``visible_at`` of a copy that waits to be received."""

_SPARE_DEADLINES = 1_000
"""The number of outdated deadlines that are kept before they are removed."""


class Copy(Generic[MessageT]):
    """A queue's own copy of a message. Read it under the lock of its queue.

    ``origin`` is its number when it was first sent. It stays the same in a dead-letter queue, as the broker's message
    id does. So does ``receive_count``, of which ``carried`` receives were in another queue, ``source``.
    """

    __slots__ = (
        "carried",
        "deduplication_id",
        "first_received_at",
        "group_id",
        "message",
        "number",
        "origin",
        "receive_count",
        "received_at",
        "sent_at",
        "source",
        "visible_at",
    )

    def __init__(  # noqa: PLR0917 - one is made for each message: keywords take longer
        self,
        message: MessageT,
        number: int,
        origin: int,
        sent_at: float,
        group_id: str | None,
        deduplication_id: str | None,
    ) -> None:
        self.message = message
        self.number = number
        self.origin = origin
        self.sent_at = sent_at
        self.group_id = group_id
        self.deduplication_id = deduplication_id
        self.source: StoredQueue[MessageT] | None = None
        self.receive_count = self.carried = 0
        self.first_received_at = self.received_at = 0.0
        self.visible_at = VISIBLE

    @property
    def was_received(self) -> bool:
        """True if this queue has delivered it at least once."""
        return self.receive_count > self.carried

    def moved_to(
        self, number: int, sent_at: float, deduplication_id: str | None, source: StoredQueue[MessageT]
    ) -> Copy[MessageT]:
        """Return the copy that another queue gets."""
        copy = Copy(self.message, number, self.origin, sent_at, self.group_id, deduplication_id)
        copy.receive_count = copy.carried = self.receive_count
        copy.first_received_at = self.first_received_at
        copy.source = source
        return copy


class StoredQueue(ABC, Generic[MessageT]):
    """What standard and FIFO queues share. The owner guards each of its queues with one lock.

    Args:
        numbers: numbers each copy in the broker, in the order of arrival.
    """

    is_fifo = False

    def __init__(self, numbers: Iterator[int]) -> None:
        self.retention_seconds = DEFAULT_RETENTION_SECONDS
        self.dead_letters: StoredQueue[MessageT] | None = None
        self.max_receive_count: int | None = None
        self.waiters = Waiters()
        self.ended_waits = 0
        self.on_retired: Callable[[Copy[MessageT], StoredQueue[MessageT] | None], None] | None = None
        """Called with a copy that is too old and None, or with a dead letter and the queue that has it now."""
        self._numbers = numbers
        self.copies_by_number: dict[int, Copy[MessageT]] = {}
        """In the order of arrival. For looking only."""
        self._is_indexed = True
        self._deadlines: list[tuple[float, list[int]]] = []  # a heap; one entry for a whole receive
        self._in_flight = 0

    @property
    def is_full(self) -> bool:
        """True if so many messages are in flight that no more are delivered."""
        return self._in_flight >= MAX_IN_FLIGHT

    @property
    def next_deadline(self) -> float:
        """The time at which a message may become visible; infinite if none will."""
        return self._deadlines[0][0] if self._deadlines else math.inf

    @property
    def copies(self) -> Iterable[Copy[MessageT]]:
        """All copies in the order of arrival, those that are too old included. For looking only."""
        return self.copies_by_number.values()

    def keep_copies_in(self, copies: dict[int, Copy[MessageT]]) -> None:
        """Keep the copies in this dictionary from now on, which has them all in the order of arrival."""
        self.copies_by_number = copies
        self._is_indexed = False

    def end_waits(self) -> None:
        """Have the receives that wait now return without a message."""
        self.ended_waits += 1
        self.waiters.wake_all()

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
        """Store a message and return its copy; None if a FIFO queue has had its deduplication id before."""
        if not self._is_indexed:
            self._index(now)
        if self.waiters:
            self.waiters.wake_one()
        number = next(self._numbers)
        origin = number if origin is None else origin
        copy = Copy(message, number, origin, now, group_id, deduplication_id)
        self._is_indexed = False
        if delay_seconds:
            copy.visible_at = now + delay_seconds
            self._add_deadline(copy.visible_at, [number])
        self.copies_by_number[number] = copy
        self._line_up(copy)
        self._is_indexed = True
        return copy

    def number_of_first(self, group_id: str | None, deduplication_id: str | None, now: float) -> int | None:
        """Return the number of the copy that had this deduplication id within the last five minutes, or None."""
        return None

    def take(self, limit: int, now: float, visibility_timeout_seconds: float) -> list[Copy[MessageT]]:
        """Hide and return up to ``limit`` visible copies; dead-letter those received too often.

        An exception in the middle leaves some of them in flight until their deadline, like a lost answer of SQS.
        """
        if not self._is_indexed:
            self._index(now)
        if self._deadlines and self._deadlines[0][0] <= now:
            self._show_due(now)
        oldest = now - self.retention_seconds
        most = math.inf if self.dead_letters is None else self.max_receive_count or math.inf
        deadline = now + visibility_timeout_seconds
        wanted = min(limit, MAX_IN_FLIGHT - self._in_flight)
        taken: list[Copy[MessageT]] = []
        numbers: list[int] = []
        self._is_indexed = False
        while wanted > 0:
            selected, wanted = self._select(wanted), 0
            for copy in selected:
                if copy.sent_at <= oldest or copy.receive_count - copy.carried >= most:
                    self._retire(copy, now, is_expired=copy.sent_at <= oldest)
                    wanted += 1  # another takes its place
                    continue
                taken.append(copy)
                numbers.append(copy.number)
                copy.visible_at = deadline
                copy.receive_count += 1
                copy.received_at = now
                if not copy.first_received_at:
                    copy.first_received_at = now
        if numbers:
            self._in_flight += len(numbers)
            self._add_deadline(deadline, numbers)
        self._is_indexed = True
        return taken

    def remove(self, copy: Copy[MessageT], now: float) -> None:
        """Delete a message that is, or was, in flight."""
        if not self._is_indexed:
            self._index(now)
        if self.waiters and self.is_fifo:
            self.waiters.wake_one()  # its group continues
        self._is_indexed = False
        del self.copies_by_number[copy.number]
        if copy.visible_at == VISIBLE:
            self._leave_line(copy)
        else:
            if copy.receive_count > copy.carried:
                self._in_flight -= 1
            self._remove(copy)
        self._is_indexed = True

    def show_at(self, copy: Copy[MessageT], until: float, now: float) -> None:
        """Make a message that is, or was, in flight visible at ``until``; at once if that has passed."""
        if not self._is_indexed:
            self._index(now)
        self._is_indexed = False
        if copy.visible_at == VISIBLE:
            if until > now:
                copy = self._hide(copy, until)
                self._add_deadline(until, [copy.number])
        elif until <= now:
            self._show(copy)
        else:
            copy.visible_at = until
            self._add_deadline(until, [copy.number])
        self._is_indexed = True

    def refresh(self, now: float) -> None:
        """Make visible what is due by now."""
        if not self._is_indexed:
            self._index(now)
        self._show_due(now)

    def measure(self, now: float) -> QueueDepth:
        """Count the messages that are not too old. Only this operation looks at all of them."""
        oldest = now - self.retention_seconds
        visible = in_flight = delayed = 0
        for copy in self.copies_by_number.values():
            if copy.visible_at <= now:
                visible += copy.sent_at > oldest
            elif copy.was_received:
                in_flight += 1
            else:
                delayed += 1
        return QueueDepth(visible, in_flight, delayed)

    def purge(self) -> None:
        """Remove all messages."""
        self._is_indexed = False
        self.copies_by_number.clear()
        self._index(math.inf)

    @abstractmethod
    def _line_up(self, copy: Copy[MessageT]) -> None:
        """Index a copy that is new."""

    @abstractmethod
    def _select(self, limit: int) -> list[Copy[MessageT]]:
        """Take at most ``limit`` visible copies out of the line, in order."""

    @abstractmethod
    def _come_back(self, copy: Copy[MessageT]) -> None:
        """Index a copy that was invisible and is visible now."""

    @abstractmethod
    def _remove(self, copy: Copy[MessageT]) -> None:
        """Remove a deleted copy from the index; it was selected before."""

    @abstractmethod
    def _leave_line(self, copy: Copy[MessageT]) -> None:
        """Remove a deleted copy from the index; it was visible."""

    @abstractmethod
    def _hide(self, copy: Copy[MessageT], until: float) -> Copy[MessageT]:
        """Make a visible copy invisible, and return the object that is the copy now."""

    @abstractmethod
    def _clear_lines(self) -> None:
        """Empty the index of the subclass."""

    def _index(self, now: float) -> None:
        """Build the index from the copies."""
        self._is_indexed = False
        self._clear_lines()
        self._deadlines.clear()
        self._in_flight = 0
        for copy in self.copies_by_number.values():
            if copy.visible_at <= now:
                copy.visible_at = VISIBLE
            else:
                self._deadlines.append((copy.visible_at, [copy.number]))
                self._in_flight += copy.was_received
            self._line_up(copy)
        heapify(self._deadlines)
        self._is_indexed = True

    def _retire(self, copy: Copy[MessageT], now: float, *, is_expired: bool) -> None:
        """Remove a selected copy that is too old, or move it to the dead-letter queue."""
        target = None if is_expired else self.dead_letters  # there is one if a message was received too often
        if target is None:
            del self.copies_by_number[copy.number]
        else:
            if not target._is_indexed:
                target._index(now)
            target.waiters.wake_one()
            dead = target._dead_letter_of(copy, now, self)
            target._is_indexed = False
            # No exception can come between these two: the message is in one of the queues, never in both or in none.
            target.copies_by_number[dead.number] = dead
            del self.copies_by_number[copy.number]
            target._line_up(dead)
            target._is_indexed = True
        self._remove(copy)
        if self.on_retired is not None:
            self.on_retired(copy, target)

    def _dead_letter_of(
        self, copy: Copy[MessageT], now: float, source: StoredQueue[MessageT]
    ) -> Copy[MessageT]:
        """Return a copy for this queue of a message from another queue. Its age continues."""
        return copy.moved_to(next(self._numbers), copy.sent_at, copy.deduplication_id, source)

    def _show(self, copy: Copy[MessageT]) -> None:
        self.waiters.wake_one()
        copy.visible_at = VISIBLE
        self._in_flight -= copy.was_received
        self._come_back(copy)

    def _show_due(self, now: float) -> None:
        self._is_indexed = False
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, numbers = heappop(self._deadlines)
            for number in numbers:
                if self._is_due_then(number, deadline):
                    self._show(self.copies_by_number[number])
        self._is_indexed = True

    def _is_due_then(self, number: int, deadline: float) -> bool:
        copy = self.copies_by_number.get(number)
        return copy is not None and copy.visible_at == deadline

    def _add_deadline(self, deadline: float, numbers: list[int]) -> None:
        """Note when copies become visible. Copies settled earlier stay here until their time, or the next cleaning."""
        if self.waiters and deadline < self.next_deadline:
            self.waiters.wake_all()  # they wait for a later time
        heappush(self._deadlines, (deadline, numbers))
        if len(self._deadlines) > 2 * len(self.copies_by_number) + _SPARE_DEADLINES:
            self._deadlines = [
                (deadline, numbers)
                for deadline, numbers in self._deadlines
                if any(self._is_due_then(number, deadline) for number in numbers)
            ]
            heapify(self._deadlines)
