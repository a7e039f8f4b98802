"""Queues as SQS keeps them: visibility, leases, delays, retention, dead letters; and the standard queue.

The copies are the truth. Lines, groups, deadlines and counts are only an index of them. An exception may strike in the
middle of any operation: Ctrl-C, the time limit of a test. CPython raises those at calls and at the end of a loop
iteration, never between plain assignments. So each change of a copy is a sequence of plain assignments, and the index
is marked as outdated while it changes: the next operation that finds the mark builds it again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from melange.drivers.base import QueueDepth
from melange.drivers.memory.deduplication import DeduplicationWindow
from melange.drivers.memory.tenants import Tenants
from melange.drivers.memory.waiting import Waiters
from melange.drivers.sqs_rules import DEFAULT_RETENTION_SECONDS, MAX_IN_FLIGHT, MAX_VISIBILITY_SECONDS
from melange.errors import LeaseLostError
from melange.messages import Delivery, Message, Queue

VISIBLE = -math.inf
"""The ``visible_at`` of a copy that waits to be received."""

_SPARE_DEADLINES = 1_000
"""The number of outdated deadlines that are kept before they are removed."""


class Copy:
    """A queue's own copy of a message.

    ``origin`` is its number when it was first sent. It stays the same in a dead-letter queue, as the broker's message
    id does. So does ``receive_count``, of which ``carried`` receives were in another queue.
    """

    __slots__ = (
        "carried",
        "message",
        "number",
        "origin",
        "receipt_handle",
        "receive_count",
        "received_at",
        "sent_at",
        "visible_at",
    )

    def __init__(self, message: Message, number: int, origin: int, sent_at: float, carried: int = 0) -> None:
        self.message = message
        self.number = number
        self.origin = origin
        self.sent_at = sent_at
        self.receive_count = self.carried = carried
        self.receipt_handle = ""  # of the last receive; "" before the first
        self.received_at = 0.0
        self.visible_at = VISIBLE


class MemoryQueue(ABC):
    """What standard and FIFO queues share. Guarded by the driver's lock.

    Args:
        queue: the object that callers use.
        broker: the broker's own token, which no other broker shares.
        numbers: numbers each copy in the broker, in the order of arrival.
    """

    def __init__(self, queue: Queue, broker: str, numbers: Iterator[int]) -> None:
        self.queue = queue
        self.retention_seconds = DEFAULT_RETENTION_SECONDS
        self.dead_letters: MemoryQueue | None = None
        self.waiters = Waiters()
        self.ended_waits = 0
        self._broker = broker
        self._numbers = numbers
        self._seal = f"{broker}.{next(numbers)}"  # ends each receipt handle of this queue
        self._window: DeduplicationWindow | None = None
        self._copies: dict[int, Copy] = {}  # by number, and so in the order of arrival
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

    def put(
        self, message: Message, now: float, delay_seconds: int = 0, origin: int | None = None
    ) -> Copy | None:
        """Store a message and return its copy; None if the queue has had it before."""
        if not self._is_indexed:
            self._index(now)
        if self._window is not None and self._window.holds(message.message_deduplication_id, now):
            return None
        if self.waiters:
            self.waiters.wake_one()
        number = next(self._numbers)
        copy = Copy(message, number, number if origin is None else origin, now)
        self._is_indexed = False
        if delay_seconds:
            copy.visible_at = now + delay_seconds
            self._add_deadline(copy.visible_at, [number])
        self._copies[number] = copy
        self._line_up(copy)
        if self._window is not None:
            # Only now: an exception in between must not leave an id without its message.
            self._window.remember(message.message_deduplication_id, now)
        self._is_indexed = True
        return copy

    def take(self, limit: int, now: float, visibility_timeout_seconds: int) -> list[Delivery]:
        """Deliver up to ``limit`` visible messages; dead-letter those received too often.

        An exception in the middle leaves some of them in flight until their deadline, like a lost answer of SQS.
        """
        if not self._is_indexed:
            self._index(now)
        if self._deadlines and self._deadlines[0][0] <= now:
            self._show_due(now)
        queue, seal, broker = self.queue, self._seal, self._broker
        oldest = now - self.retention_seconds
        most = (self.dead_letters and queue.max_receive_count) or math.inf
        deadline = now + visibility_timeout_seconds
        wanted = min(limit, MAX_IN_FLIGHT - self._in_flight)
        deliveries: list[Delivery] = []
        numbers: list[int] = []
        self._is_indexed = False
        while wanted > 0:
            selected, wanted = self._select(wanted), 0
            for copy in selected:
                if copy.sent_at <= oldest or copy.receive_count - copy.carried >= most:
                    self._retire(copy, now, is_expired=copy.sent_at <= oldest)
                    wanted += 1  # another takes its place
                    continue
                number, receive_count = copy.number, copy.receive_count + 1
                handle = f"{number}-{receive_count}-{seal}"
                broker_message_id = f"{broker}-{copy.origin}"
                deliveries.append(
                    Delivery(copy.message, queue, handle, receive_count, deadline, broker_message_id)
                )
                numbers.append(number)
                copy.visible_at = deadline
                copy.receive_count = receive_count
                copy.receipt_handle = handle
                copy.received_at = now
        if numbers:
            self._in_flight += len(numbers)
            self._add_deadline(deadline, numbers)
        self._is_indexed = True
        return deliveries

    def acknowledge(self, delivery: Delivery, now: float) -> LeaseLostError | None:
        """Remove the delivery's message; return the reason if that fails. A second time is not a failure."""
        if not self._is_indexed:
            self._index(now)
        copy = self._held(delivery, now)
        if copy is None:
            return self._why_not_held(delivery, now, or_acknowledged=True)
        if self.waiters and self.queue.is_fifo:
            self.waiters.wake_one()  # its group continues
        self._is_indexed = False
        del self._copies[copy.number]
        self._in_flight -= 1
        self._remove(copy)
        self._is_indexed = True
        return None

    def defer(self, delivery: Delivery, seconds: int, now: float) -> LeaseLostError | None:
        """Make the delivery's message visible after ``seconds``, or at the longest visibility timeout."""
        if not self._is_indexed:
            self._index(now)
        copy = self._held(delivery, now)
        if copy is None:
            return self._why_not_held(delivery, now, or_acknowledged=False)
        until = min(now + seconds, copy.received_at + MAX_VISIBILITY_SECONDS)
        self._is_indexed = False
        if until <= now:
            self._show(copy)
        else:
            copy.visible_at = until
            self._add_deadline(until, [copy.number])
        self._is_indexed = True
        return None

    def measure(self, now: float) -> QueueDepth:
        """Count the messages. Only this operation looks at all of them."""
        oldest = now - self.retention_seconds
        visible = in_flight = delayed = 0
        for copy in self._copies.values():
            if copy.visible_at <= now:
                visible += copy.sent_at > oldest
            elif copy.receipt_handle:
                in_flight += 1
            else:
                delayed += 1
        return QueueDepth(visible, in_flight, delayed)

    def arrival_of(self, delivery: Delivery) -> tuple[float | None, bool]:
        """Return the time when the delivery's message was sent, and True if another queue had received it too often.

        The time is None if the message was removed meanwhile.
        """
        copy = self._copies.get(int(delivery.receipt_handle.partition("-")[0]))
        return (None, False) if copy is None else (copy.sent_at, copy.carried > 0)

    def messages(self) -> list[Message]:
        """Return all messages in the order of arrival, invisible ones included."""
        return [copy.message for copy in self._copies.values()]

    def purge(self) -> None:
        """Remove all messages."""
        self._is_indexed = False
        self._copies.clear()
        self._index(math.inf)

    @abstractmethod
    def _line_up(self, copy: Copy) -> None:
        """Index a copy that is new."""

    @abstractmethod
    def _select(self, limit: int) -> list[Copy]:
        """Take at most ``limit`` visible copies out of the line, in order."""

    @abstractmethod
    def _come_back(self, copy: Copy) -> None:
        """Index a copy that was invisible and is visible now."""

    @abstractmethod
    def _remove(self, copy: Copy) -> None:
        """Remove a deleted copy from the index; it was selected before."""

    @abstractmethod
    def _clear_lines(self) -> None:
        """Empty the index of the subclass."""

    def _index(self, now: float) -> None:
        """Build the index from the copies."""
        self._is_indexed = False
        self._clear_lines()
        self._deadlines.clear()
        self._in_flight = 0
        for copy in self._copies.values():
            if copy.visible_at <= now:
                copy.visible_at = VISIBLE
            else:
                self._deadlines.append((copy.visible_at, [copy.number]))
                if copy.receipt_handle:
                    self._in_flight += 1
            self._line_up(copy)
        heapify(self._deadlines)
        self._is_indexed = True

    def _held(self, delivery: Delivery, now: float) -> Copy | None:
        """Return the copy that the delivery's receiver still holds, or None."""
        try:
            copy = self._copies.get(int(delivery.receipt_handle.partition("-")[0]))
        except ValueError:
            return None
        if (
            copy is not None
            and copy.receipt_handle == delivery.receipt_handle
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
        if or_acknowledged and int(number) not in self._copies and now < delivery.deadline:
            return None
        return LeaseLostError(
            f"message {message_id} of queue {self.queue.name!r} is past its "
            "deadline: another receiver may have it"
        )

    def _retire(self, copy: Copy, now: float, *, is_expired: bool) -> None:
        """Remove a selected copy that is too old, or move it to the dead-letter queue."""
        target = self.dead_letters
        if is_expired or target is None:  # there is one if a message was received too often
            del self._copies[copy.number]
        else:
            if not target._is_indexed:
                target._index(now)
            target.waiters.wake_one()
            dead = target._dead_letter_of(copy, now)
            target._is_indexed = False
            # No exception can come between these two: the message is in one of the queues, never in both or in none.
            target._copies[dead.number] = dead
            del self._copies[copy.number]
            target._line_up(dead)
            target._is_indexed = True
        self._remove(copy)

    def _dead_letter_of(self, copy: Copy, now: float) -> Copy:
        """Return a copy for this queue of a message from another queue. Its age continues."""
        return Copy(copy.message, next(self._numbers), copy.origin, copy.sent_at, copy.receive_count)

    def _show(self, copy: Copy) -> None:
        self.waiters.wake_one()
        copy.visible_at = VISIBLE
        if copy.receipt_handle:
            self._in_flight -= 1
        self._come_back(copy)

    def _show_due(self, now: float) -> None:
        self._is_indexed = False
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, numbers = heappop(self._deadlines)
            for number in numbers:
                if self._is_due_then(number, deadline):
                    self._show(self._copies[number])
        self._is_indexed = True

    def _is_due_then(self, number: int, deadline: float) -> bool:
        copy = self._copies.get(number)
        return copy is not None and copy.visible_at == deadline

    def _add_deadline(self, deadline: float, numbers: list[int]) -> None:
        """Note when copies become visible. Copies settled earlier stay here until their time, or the next cleaning."""
        if self.waiters and deadline < self.next_deadline:
            self.waiters.wake_all()  # they wait for a later time
        heappush(self._deadlines, (deadline, numbers))
        if len(self._deadlines) > 2 * len(self._copies) + _SPARE_DEADLINES:
            self._deadlines = [
                (deadline, numbers)
                for deadline, numbers in self._deadlines
                if any(self._is_due_then(number, deadline) for number in numbers)
            ]
            heapify(self._deadlines)


class StandardQueue(MemoryQueue):
    """A queue in the order of arrival; a message that comes back goes to the end, so that it does not delay others."""

    def __init__(self, queue: Queue, broker: str, numbers: Iterator[int]) -> None:
        super().__init__(queue, broker, numbers)
        self._line: deque[Copy] = deque()
        self._tenants: Tenants[Copy] = Tenants()

    def _line_up(self, copy: Copy) -> None:
        if copy.visible_at == VISIBLE:
            self._line.append(copy)
        elif copy.receipt_handle and copy.message.message_group_id is not None:
            self._tenants.count(copy.message.message_group_id, 1)

    def _select(self, limit: int) -> list[Copy]:
        line, tenants = self._line, self._tenants
        selected: list[Copy] = []
        if tenants.overtaken:
            selected = tenants.take(limit, self._in_flight, noisy=False)
        while line and len(selected) < limit:
            copy = line.popleft()
            tenant = copy.message.message_group_id
            if tenant is None:
                selected.append(copy)
            elif tenants.is_noisy(tenant, self._in_flight):
                tenants.overtake(tenant, copy)
            else:
                tenants.count(tenant, 1)
                selected.append(copy)
        if len(selected) < limit and tenants.overtaken:
            selected += tenants.take(limit - len(selected), self._in_flight, noisy=True)
        return selected

    def _come_back(self, copy: Copy) -> None:
        self._line.append(copy)
        if copy.receipt_handle:
            self._remove(copy)

    def _remove(self, copy: Copy) -> None:
        tenant = copy.message.message_group_id
        if tenant is not None:
            self._tenants.count(tenant, -1)

    def _clear_lines(self) -> None:
        self._line.clear()
        self._tenants.clear()
