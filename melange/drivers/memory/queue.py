"""A queue of the in-memory driver: deliveries, and which of them may be settled."""

from __future__ import annotations

from collections.abc import Iterator

from melange.drivers.base import QueueDepth
from melange.drivers.sqs_rules import MAX_VISIBILITY_SECONDS
from melange.engine.queue import Copy, StoredQueue
from melange.errors import LeaseLostError
from melange.messages import Delivery, Message, Queue


class MemoryQueue:
    """A stored queue with the driver's rules: only the current receiver settles a message. Guarded by the driver's lock.

    Args:
        queue: the object that callers use.
        stored: keeps the messages.
        broker: the broker's own token, which no other broker shares.
        numbers: the broker's numbers.
    """

    __slots__ = ("_broker", "_seal", "queue", "stored")

    def __init__(
        self, queue: Queue, stored: StoredQueue[Message], broker: str, numbers: Iterator[int]
    ) -> None:
        self.queue = queue
        self.stored = stored
        self._broker = broker
        self._seal = f"{broker}.{next(numbers)}"  # ends each receipt handle of this queue

    def take(self, limit: int, now: float, visibility_timeout_seconds: int) -> list[Delivery]:
        """Deliver up to ``limit`` visible messages."""
        queue, seal, broker = self.queue, self._seal, self._broker
        deadline = now + visibility_timeout_seconds
        deliveries: list[Delivery] = []
        for copy in self.stored.take(limit, now, visibility_timeout_seconds):
            message = copy.message
            if message.message_deduplication_id is not copy.deduplication_id:
                message = _message_of(copy)
            handle = f"{copy.number}-{copy.receive_count}-{seal}"
            broker_message_id = f"{broker}-{copy.origin}"
            fields = (message, queue, handle, copy.receive_count, deadline, broker_message_id, None)
            deliveries.append(tuple.__new__(Delivery, fields))  # in half of the time of Delivery(...)
        return deliveries

    def acknowledge(self, delivery: Delivery, now: float) -> LeaseLostError | None:
        """Remove the delivery's message; return the reason if that fails. A second time is not a failure."""
        copy = self._held(delivery, now)
        if copy is None:
            return self._why_not_held(delivery, now, or_acknowledged=True)
        self.stored.remove(copy, now)
        return None

    def defer(self, delivery: Delivery, seconds: int, now: float) -> LeaseLostError | None:
        """Make the delivery's message visible after ``seconds``, or at the longest visibility timeout."""
        copy = self._held(delivery, now)
        if copy is None:
            return self._why_not_held(delivery, now, or_acknowledged=False)
        self.stored.show_at(copy, min(now + seconds, copy.received_at + MAX_VISIBILITY_SECONDS), now)
        return None

    def measure(self, now: float) -> QueueDepth:
        """Count the messages."""
        return QueueDepth(*self.stored.measure(now))

    def arrival_of(self, delivery: Delivery) -> tuple[float | None, bool]:
        """Return the time when the delivery's message was sent, and True if another queue had received it too often.

        The time is None if the message was removed meanwhile.
        """
        copy = self.stored.copies_by_number.get(int(delivery.receipt_handle.partition("-")[0]))
        return (None, False) if copy is None else (copy.sent_at, copy.carried > 0)

    def messages(self) -> list[Message]:
        """Return all messages in the order of arrival, invisible ones included."""
        return [_message_of(copy) for copy in self.stored.copies]

    def _held(self, delivery: Delivery, now: float) -> Copy[Message] | None:
        """Return the copy that the delivery's receiver still holds, or None."""
        number, _, rest = delivery.receipt_handle.partition("-")
        try:
            copy = self.stored.copies_by_number.get(int(number))
        except ValueError:
            return None
        if (
            copy is not None
            and rest == f"{copy.receive_count}-{self._seal}"
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
        if (
            or_acknowledged
            and self.stored.copies_by_number.get(int(number)) is None
            and now < delivery.deadline
        ):
            return None
        return LeaseLostError(
            f"message {message_id} of queue {self.queue.name!r} is past its "
            "deadline: another receiver may have it"
        )


def _message_of(copy: Copy[Message]) -> Message:
    if copy.message.message_deduplication_id is copy.deduplication_id:
        return copy.message
    return copy.message._replace(
        message_deduplication_id=copy.deduplication_id
    )  # a dead letter has a new one
