"""Standard queues without the order and the single delivery that SQS does not promise."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from melange.engine.queue import VISIBLE, Copy, MessageT, StandardQueue
from melange.errors import ConfigurationError

_REACH = 20
"""The number of places that a message may move ahead."""


class Disorder:
    """Makes standard queues that deliver out of order and sometimes twice; see ``InMemoryDriver``."""

    def __init__(self, *, seed: int | None, duplicates: float, shuffle: bool) -> None:
        if (
            isinstance(duplicates, bool)
            or not isinstance(duplicates, (int, float))
            or not 0 <= duplicates <= 1
        ):
            raise ConfigurationError(
                f"duplicates must be a share from 0 to 1 of the messages, not {duplicates!r}"
            )
        self.duplicates = duplicates
        self.shuffle = shuffle
        self._seed = seed

    def new_queue(self, name: str, numbers: Iterator[int], *, may_change: bool = False) -> StandardQueue[Any]:
        """Return a standard queue with its own random numbers, so that queues do not affect each other.

        With ``may_change`` it follows later changes of ``duplicates`` and ``shuffle``.
        """
        if not may_change and not self.duplicates and not self.shuffle:
            return StandardQueue(numbers)
        seed = None if self._seed is None else f"{self._seed} {name}"
        return DisorderedQueue(numbers, self, Random(seed))  # noqa: S311 - nothing to guess here


class DisorderedQueue(StandardQueue[MessageT]):
    """A standard queue at its worst. A duplicate is a second copy with the same broker's id."""

    def __init__(self, numbers: Iterator[int], disorder: Disorder, random: Random) -> None:
        super().__init__(numbers)
        self._disorder = disorder
        self._random = random

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
        copy = super().put(message, now, group_id, delay_seconds=delay_seconds, origin=origin)
        duplicates = self._disorder.duplicates
        if duplicates and copy is not None and self._random.random() < duplicates:
            super().put(message, now, group_id, delay_seconds=delay_seconds, origin=copy.origin)
        return copy

    def _line_up(self, copy: Copy[MessageT]) -> None:
        super()._line_up(copy)
        if self._disorder.shuffle and copy.visible_at == VISIBLE:
            self._move_ahead()

    def _come_back(self, copy: Copy[MessageT]) -> None:
        super()._come_back(copy)
        if self._disorder.shuffle:
            self._move_ahead()

    def _move_ahead(self) -> None:
        copy = self._line.pop()
        place = len(self._line) - self._random.randint(0, min(_REACH, len(self._line)))
        self._line.insert(place, copy)
