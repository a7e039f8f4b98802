"""Standard queues."""

# MERGED DOCS: What a queue keeps of a message. | When invisible copies become visible. | What standard and FIFO queues share, as SQS keeps it: visibility, leases, delays, retention, dead letters.

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

from melange.clock import Clock
from melange.drivers.base import QueueDepth
from melange.drivers.sqs_rules import DEFAULT_RETENTION_SECONDS, MAX_IN_FLIGHT, MAX_VISIBILITY_SECONDS
from melange.errors import DriverError, LeaseLostError, MelangeError
from melange.messages import Delivery, Message, Queue

VISIBLE = -math.inf
"""The ``visible_at`` of a copy that stands in line."""


class Copy:
    """A queue's own copy of a message."""

    __slots__ = (
        "message",
        "number",
        "receipt_handle",
        "receive_count",
        "received_at",
        "sent_at",
        "visible_at",
    )

    def __init__(self, message: Message, number: int, sent_at: float) -> None:
        self.message = message
        self.number = number
        self.sent_at = sent_at
        self.receive_count = 0
        self.receipt_handle = ""
        self.received_at = 0.0
        self.visible_at = VISIBLE


_SPARE = 1_000
"""How many outdated deadlines may lie about before it is worth clearing them out."""


class Deadlines:
    """The deadlines of a queue's invisible copies, the earliest first.

    A deadline that no longer holds, since its copy was acknowledged or got another one, is not looked for:
    it is passed over when its time comes, and cleared out with others when they outnumber the rest. So
    adding and removing cost the same however many there are.
    """

    def __init__(self, copies: Mapping[int, Copy]) -> None:
        self._copies = copies
        # One entry for a whole receive, and numbers instead of copies: what is settled is free at once.
        self._heap: list[tuple[float, tuple[int, ...]]] = []
        self._count = 0

    def __len__(self) -> int:
        """How many there are, outdated ones too."""
        return self._count

    @property
    def earliest(self) -> float:
        """The earliest deadline, outdated or not; infinite if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, deadline: float, copies: Sequence[Copy], *, invisible: int) -> None:
        """Add the common deadline of ``copies``; ``invisible`` is how many the queue now has."""
        heappush(self._heap, (deadline, tuple([copy.number for copy in copies])))
        self._count += len(copies)
        if self._count > 2 * invisible + _SPARE:
            self._clear_out()

    def pop_due(self, now: float) -> list[Copy]:
        """Take out what is due and return the copies for which it still holds."""
        due: list[Copy] = []
        while self._heap and self._heap[0][0] <= now:
            deadline, numbers = heappop(self._heap)
            self._count -= len(numbers)
            due += [self._copies[number] for number in self._still_holding(deadline, numbers)]
        return due

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()
        self._count = 0

    def _clear_out(self) -> None:
        held = [(deadline, self._still_holding(deadline, numbers)) for deadline, numbers in self._heap]
        self._heap = [entry for entry in held if entry[1]]
        self._count = sum(len(numbers) for _, numbers in self._heap)
        heapify(self._heap)

    def _still_holding(self, deadline: float, numbers: tuple[int, ...]) -> tuple[int, ...]:
        copies = self._copies
        return tuple(
            [number for number in numbers if number in copies and copies[number].visible_at == deadline]
        )


class MemoryQueue(ABC):
    """What standard and FIFO queues share. Guarded by the driver's lock, which ``lock`` is.

    ``numbers`` gives each copy in the driver its own number, in the order of their arrival.
    """

    def __init__(self, queue: Queue, lock: threading.Lock, numbers: Iterator[int]) -> None:
        self.queue = queue
        self.content_based_deduplication = False
        self.retention_seconds = DEFAULT_RETENTION_SECONDS
        self.dead_letters: MemoryQueue | None = None
        self._numbers = numbers
        self._copies: dict[int, Copy] = {}
        self._deadlines = Deadlines(self._copies)
        self._in_flight = 0
        self._delayed = 0
        self._changed = threading.Condition(lock)
        self._waiting = 0
        self.ended_waits = 0

    @property
    def is_full(self) -> bool:
        """Whether so much is in flight that nothing more is handed out."""
        return self._in_flight >= MAX_IN_FLIGHT

    def take(self, limit: int, now: float, visibility_timeout_seconds: int) -> list[Delivery]:
        """Hand out up to ``limit`` visible messages; set aside those received too often."""
        self._show_due(now)
        limit = min(limit, MAX_IN_FLIGHT - self._in_flight)
        taken: list[Copy] = []
        while len(taken) < limit:
            selected = self._select(limit - len(taken))
            if not selected:
                break
            taken += self._fit_to_go_out(selected, now)
        return self._deliver(taken, now, now + visibility_timeout_seconds) if taken else []

    def acknowledge(self, delivery: Delivery, now: float) -> MelangeError | None:
        """Remove the delivery's message; return why not, if not."""
        copy = self._copies.get(_number_in(delivery.receipt_handle))
        if copy is None and now < delivery.deadline:
            return None  # It was acknowledged before.
        if copy is None or not _is_held(copy, delivery, now):
            return _lease_lost(delivery)
        self._in_flight -= 1
        self._remove(copy)
        return None

    def defer(self, delivery: Delivery, seconds: int, now: float) -> MelangeError | None:
        """Make the delivery's message visible after ``seconds``; return why not, if not."""
        copy = self._copies.get(_number_in(delivery.receipt_handle))
        if copy is None or not _is_held(copy, delivery, now):
            return _lease_lost(delivery)
        if seconds == 0:
            self._show(copy)
        elif now + seconds > copy.received_at + MAX_VISIBILITY_SECONDS:
            return DriverError(
                f"message {delivery.message.message_id} can stay invisible for {MAX_VISIBILITY_SECONDS:,} s from its "
                f"receipt, and {seconds:,} s more would exceed that"
            )
        else:
            self._hide([copy], until=now + seconds)
        return None

    def wait(self, clock: Clock, now: float, give_up_at: float) -> None:
        """Wait until something may have become visible, ``give_up_at`` at the latest."""
        self._waiting += 1
        try:
            clock.wait(self._changed, min(give_up_at, self._deadlines.earliest) - now)
        finally:
            self._waiting -= 1

    def wake_all(self) -> None:
        """Wake everybody who waits here, to look whether it still makes sense."""
        self._changed.notify_all()

    def measure(self, now: float) -> QueueDepth:
        """Count the messages. The one operation that looks at all of them: only it must know the expired."""
        self._show_due(now)
        oldest = now - self.retention_seconds
        visible = sum(copy.visible_at == VISIBLE and copy.sent_at > oldest for copy in self._copies.values())
        return QueueDepth(visible=visible, in_flight=self._in_flight, delayed=self._delayed)

    def purge(self) -> None:
        """Remove all messages."""
        self._copies.clear()
        self._deadlines.clear()
        self._in_flight = self._delayed = 0
        self._forget_all()

    @abstractmethod
    def put(self, message: Message, now: float, delay_seconds: int = 0) -> None:
        """Take a message in."""

    @abstractmethod
    def _append(self, copy: Copy) -> None:
        """Put a copy that was never received at the end of the line."""

    @abstractmethod
    def _select(self, limit: int) -> list[Copy]:
        """Take at most ``limit`` copies out of the line, in order; none of them is held by anybody."""

    @abstractmethod
    def _put_back(self, copy: Copy) -> None:
        """Put a selected copy where it belongs in the line."""

    @abstractmethod
    def _forget(self, copy: Copy) -> None:
        """A selected copy is gone for good."""

    @abstractmethod
    def _forget_all(self) -> None:
        """All copies are gone for good."""

    def _store(self, message: Message, sent_at: float, delay_seconds: int = 0) -> None:
        number = next(self._numbers)
        copy = self._copies[number] = Copy(message, number, sent_at)
        if delay_seconds:
            self._delayed += 1
            self._hide([copy], until=sent_at + delay_seconds)
            return
        self._append(copy)
        if self._waiting:
            self._changed.notify()

    def _fit_to_go_out(self, selected: list[Copy], now: float) -> list[Copy]:
        """Return the copies that are neither too old nor dead letters; those are removed and set aside."""
        oldest = now - self.retention_seconds
        max_receive_count = self.queue.max_receive_count or math.inf
        fit = []
        for copy in selected:
            if copy.sent_at > oldest and copy.receive_count < max_receive_count:
                fit.append(copy)
                continue
            self._remove(copy)
            if copy.sent_at > oldest and self.dead_letters is not None:
                # On FIFO queues the age starts anew, on standard queues it counts from the original send.
                self.dead_letters._store(copy.message, now if self.queue.is_fifo else copy.sent_at)
        return fit

    def _deliver(self, taken: list[Copy], now: float, deadline: float) -> list[Delivery]:
        queue = self.queue
        deliveries = []
        for copy in taken:
            copy.receive_count = receive_count = copy.receive_count + 1
            copy.receipt_handle = receipt_handle = f"{copy.number}-{receive_count}"
            copy.received_at = now
            deliveries.append(Delivery(copy.message, queue, receipt_handle, receive_count, deadline))
        self._in_flight += len(taken)
        self._hide(taken, until=deadline)
        return deliveries

    def _remove(self, copy: Copy) -> None:
        del self._copies[copy.number]
        self._forget(copy)

    def _show(self, copy: Copy) -> None:
        copy.visible_at = VISIBLE
        if copy.receive_count:
            self._in_flight -= 1
            self._put_back(copy)
        else:
            self._delayed -= 1
            self._append(copy)
        self._notify()

    def _show_due(self, now: float) -> None:
        for copy in self._deadlines.pop_due(now):
            # A deadline that was set twice is due twice.
            if copy.visible_at != VISIBLE:
                self._show(copy)

    def _hide(self, copies: list[Copy], until: float) -> None:
        for copy in copies:
            copy.visible_at = until
        self._deadlines.add(until, copies, invisible=self._in_flight + self._delayed)
        if self._waiting and self._deadlines.earliest == until:
            self._changed.notify_all()  # They wait for a later time.

    def _notify(self) -> None:
        if self._waiting:
            self._changed.notify()


def _number_in(receipt_handle: str) -> int:
    """Return the number of the copy that the handle is for, -1 if it is no handle of ours."""
    try:
        return int(receipt_handle.partition("-")[0])
    except ValueError:
        return -1


def _is_held(copy: Copy, delivery: Delivery, now: float) -> bool:
    # The delivery's own deadline counts too: where the broker cannot tell, it is all there is to go by.
    return (
        now < delivery.deadline and now < copy.visible_at and copy.receipt_handle == delivery.receipt_handle
    )


def _lease_lost(delivery: Delivery) -> LeaseLostError:
    return LeaseLostError(
        f"message {delivery.message.message_id} of queue {delivery.queue.name!r} was held until its deadline and is "
        "not any more: another receiver may have it"
    )


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
