"""Deduplication of FIFO topics and queues: an id counts once within five minutes."""

from __future__ import annotations

import hashlib
from collections import deque

from melange.drivers.limits import DEDUPLICATION_SECONDS
from melange.messages import Message


class DeduplicationWindow:
    """The deduplication ids of the last five minutes.

    An id is remembered from its first use on, whatever became of the message, and a repetition does not
    prolong that. Forgetting costs no more than remembering did.
    """

    __slots__ = ("_by_age", "_ids")

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._by_age: deque[tuple[float, str]] = deque()

    def admit(self, deduplication_id: str, now: float) -> bool:
        """Remember the id; return whether it is new."""
        while self._by_age and self._by_age[0][0] <= now:
            self._ids.remove(self._by_age.popleft()[1])
        if deduplication_id in self._ids:
            return False
        self._ids.add(deduplication_id)
        self._by_age.append((now + DEDUPLICATION_SECONDS, deduplication_id))
        return True


def deduplication_id_of(message: Message) -> str:
    """Return the message's own deduplication id, or the hash of its body: SNS and SQS ignore attributes."""
    return message.message_deduplication_id or hashlib.sha256(message.body.encode()).hexdigest()


def with_deduplication_id(message: Message, deduplication_id: str | None) -> Message:
    """Return the message with this deduplication id, itself if it has that already."""
    if message.message_deduplication_id == deduplication_id:
        return message
    return message._replace(message_deduplication_id=deduplication_id)
