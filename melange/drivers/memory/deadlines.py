"""When invisible copies become visible."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

from melange.drivers.memory.copies import Copy

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
