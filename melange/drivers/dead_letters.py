"""What a driver offers so that its dead letters can be administered, beside ``MessagingDriver``.

``melange.operations.DeadLetters`` and ``melange dead-letters`` work on every driver with this interface. A driver returns
it as ``dead_letter_access``; ``melange.testing.DriverContract`` tests it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from melange.errors import Failure
from melange.messages import DEAD_LETTER_HEADER, Delivery, Message, Queue

if TYPE_CHECKING:
    from melange.drivers.base import QueueDepth

NO_NOTES: Mapping[str, str] = MappingProxyType({})


class FoundDeadLetter(NamedTuple):
    """A delivery from a dead-letter queue, with what only the broker can tell about it.

    ``sent_at`` is when the broker accepted the message (aware, UTC): for one that the broker moved by itself this may be
    the time of its first queue. ``was_moved`` is True if the broker moved it by itself, after too many receives;
    ``source_name`` is the queue from which it did, if the broker tells. None stands for unknown.
    """

    delivery: Delivery
    sent_at: datetime | None = None
    was_moved: bool = False
    source_name: str | None = None


class DeadLetterAccess(Protocol):
    """Looks into dead-letter queues and sends messages on, exactly as they were received. Thread-safe.

    Errors and failures are those of ``MessagingDriver``.
    """

    @property
    def counts_are_estimates(self) -> bool:
        """True if ``measure`` may be wrong: its numbers are then shown as "about"."""

    @property
    def moves(self) -> MessageMoves | None:
        """Moves of whole queues that the broker makes by itself; None if it makes none."""

    def measure(self, queue: Queue) -> QueueDepth:
        """Count the messages of a queue."""

    def sources(self, dead_letter_queue: Queue) -> dict[str, str]:
        """Return the queues from which the broker moves messages to this one: their names, and what ``get_queue`` takes."""

    def browse(self, queue: Queue, *, visibility_timeout_seconds: int) -> list[FoundDeadLetter]:
        """Receive as many messages as one call gives; ``[]`` only if none is visible.

        They are deliveries like any other: the caller acknowledges or defers them.
        """

    def resend(
        self, deliveries: Sequence[Delivery], target: Queue, *, notes: Mapping[str, str] = NO_NOTES
    ) -> list[Failure[Delivery]]:
        """Send the messages of deliveries that ``browse`` returned to a queue; acknowledge none of them.

        Each has its body, id, headers and type as received, without the note of a dead letter, and keeps its group.
        ``notes`` has new notes by receipt handle, for messages that stay dead letters; a note that has no space is left out.
        On a FIFO queue the second sending of one dead letter within the broker's window counts as a duplicate.
        """


@dataclass(frozen=True, slots=True)
class MoveTask:
    """A move of all messages of a queue, made by the broker; counts may be estimates.

    ``status`` is ``running``, ``completed``, ``cancelling``, ``cancelled`` or ``failed``.
    """

    status: str
    destination_name: str | None
    moved: int
    to_move: int | None = None
    messages_per_second: int | None = None
    started_at: datetime | None = None
    failure: str | None = None


class MessageMoves(Protocol):
    """Moves of whole queues that the broker makes by itself. At most one runs for a queue."""

    def start(self, queue: Queue, destination: Queue, *, messages_per_second: int | None = None) -> None:
        """Begin to move all messages of ``queue`` to ``destination``, by default as fast as the broker likes.

        Raises:
            ConfigurationError: the broker does not move from this queue, or moves from it already.
        """

    def recent(self, queue: Queue) -> list[MoveTask]:
        """Return the last moves from this queue, the newest first."""

    def cancel(self, queue: Queue) -> int | None:
        """Stop the running move; return the number of messages that were moved, None if none was running."""


def is_named_for_dead_letters(queue: Queue) -> bool:
    """Return True if a consumer of melange would give this name to a dead-letter queue."""
    return queue.name.removesuffix(".fifo").endswith("-dlq")


def dead_letter_of(delivery: Delivery, *, is_fifo: bool) -> Message:
    """Return the delivery's message as it goes to a dead-letter queue, without a note."""
    # The message id alone is not enough: a message that was moved back to its queue and fails again within five
    # minutes would count as a duplicate, vanish from the dead letters, and then be acknowledged.
    one_receipt = f"{delivery.message.message_id} {delivery.receipt_handle}"
    message = _with_note(delivery.message, None)
    return _in_group(message, _digest(one_receipt)) if is_fifo else message


def sent_on(delivery: Delivery, *, is_fifo: bool, note: str | None = None) -> Message:
    """Return a dead letter's message as it goes to another queue: as it was received, with no note but the given one."""
    message = _with_note(delivery.message, note)
    if not is_fifo:
        return message._replace(message_deduplication_id=None)
    return _in_group(message, deduplication_id_of_retry(delivery))


def deduplication_id_of_retry(delivery: Delivery) -> str:
    """Return an id that is the same each time this dead letter is sent, and another for every other dead letter.

    The original id would not do: within five minutes of the first sending the broker would drop the retry as a duplicate.
    """
    text = f"{delivery.message.message_id} {delivery.broker_message_id or delivery.receipt_handle}"
    return _digest(text)


def _in_group(message: Message, deduplication_id: str) -> Message:
    return message._replace(
        message_group_id=message.message_group_id or message.message_id,
        message_deduplication_id=deduplication_id,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _with_note(message: Message, note: str | None) -> Message:
    headers = {name: value for name, value in message.headers.items() if name != DEAD_LETTER_HEADER}
    if note is not None:
        headers[DEAD_LETTER_HEADER] = note
    return message._replace(headers=MappingProxyType(headers))
