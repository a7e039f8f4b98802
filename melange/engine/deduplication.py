"""Deduplication by FIFO topics and queues: an id counts once within five minutes."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS

AnswerT = TypeVar("AnswerT")


class DeduplicationWindow(Generic[AnswerT]):
    """The deduplication ids of the last five minutes, and the answer that the first use of each was given.

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
