"""Standard queues: the order of arrival, fair between tenants; on request without the order that SQS does not promise."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Any, Generic

from melange.engine.queue import VISIBLE, Copy, MessageT, StoredQueue
from melange.errors import ConfigurationError

_GONE = math.inf
"""The ``visible_at`` of an object that still stands in a line and is no longer the copy."""

NOISY_IN_FLIGHT = 30
NOISY_SHARE = 0.1
"""A tenant is noisy if it has this many messages in flight, and more than this share of all."""

_REACH = 20
"""The number of places that a message may move ahead."""


class StandardQueue(StoredQueue[MessageT]):
    """A queue in the order of arrival; a message that comes back goes to the end, so that it does not delay others."""

    def __init__(self, numbers: Iterator[int]) -> None:
        super().__init__(numbers)
        self._line: deque[Copy[MessageT]] = deque()
        self._tenants: Tenants[MessageT] = Tenants()

    def _line_up(self, copy: Copy[MessageT]) -> None:
        if copy.visible_at == VISIBLE:
            self._line.append(copy)
        elif copy.group_id is not None and copy.was_received:
            self._tenants.count(copy.group_id, 1)

    def _select(self, limit: int) -> list[Copy[MessageT]]:
        line, tenants = self._line, self._tenants
        selected: list[Copy[MessageT]] = []
        if tenants.overtaken:
            selected = self._of_overtaken(limit, noisy=False)
        while line and len(selected) < limit:
            copy = line.popleft()
            tenant = copy.group_id
            if copy.visible_at == _GONE:
                continue
            if tenant is None:
                selected.append(copy)
            elif tenants.is_noisy(tenant, self._in_flight):
                tenants.overtake(tenant, copy)
            else:
                tenants.count(tenant, 1)
                selected.append(copy)
        if len(selected) < limit and tenants.overtaken:
            selected += self._of_overtaken(limit - len(selected), noisy=True)
        return selected

    def _of_overtaken(self, limit: int, *, noisy: bool) -> list[Copy[MessageT]]:
        selected: list[Copy[MessageT]] = []
        for copy in self._tenants.take(limit, self._in_flight, noisy=noisy):
            if copy.visible_at == _GONE:
                self._remove(copy)  # it was counted
            else:
                selected.append(copy)
        return selected

    def _come_back(self, copy: Copy[MessageT]) -> None:
        self._line.append(copy)
        if copy.was_received:
            self._remove(copy)

    def _remove(self, copy: Copy[MessageT]) -> None:
        if copy.group_id is not None:
            self._tenants.count(copy.group_id, -1)

    def _leave_line(self, copy: Copy[MessageT]) -> None:
        copy.visible_at = _GONE  # looking for it in the line would take long

    def _hide(self, copy: Copy[MessageT], until: float) -> Copy[MessageT]:
        hidden = copy.moved_to(copy.number, copy.sent_at, copy.deduplication_id, self)
        hidden.carried, hidden.source, hidden.received_at = copy.carried, copy.source, copy.received_at
        hidden.visible_at = until
        self.copies_by_number[copy.number] = hidden
        self._leave_line(copy)
        if copy.was_received:
            self._in_flight += 1
            if copy.group_id is not None:
                self._tenants.count(copy.group_id, 1)
        return hidden

    def _clear_lines(self) -> None:
        self._line.clear()
        self._tenants.clear()


class Tenants(Generic[MessageT]):
    """The number of messages that each tenant has in flight, and those of noisy tenants that others have overtaken.

    Tenants that occupy too many receivers wait behind the others, as in SQS's fair queues:
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues-detailed.html

    The group id of a message names its tenant. Each message without one is a tenant of its own, and never noisy.
    """

    __slots__ = ("_in_flight", "overtaken")

    def __init__(self) -> None:
        self._in_flight: dict[str, int] = {}
        self.overtaken: dict[str, deque[Copy[MessageT]]] = {}

    def count(self, tenant: str, difference: int) -> None:
        """Note that so many more, or fewer, messages of the tenant are in flight."""
        count = self._in_flight[tenant] = self._in_flight.get(tenant, 0) + difference
        if not count:
            del self._in_flight[tenant]

    def is_noisy(self, tenant: str, all_in_flight: int) -> bool:
        """Return True if the tenant occupies too many receivers."""
        in_flight = self._in_flight.get(tenant, 0)
        return in_flight >= NOISY_IN_FLIGHT and in_flight > NOISY_SHARE * all_in_flight

    def overtake(self, tenant: str, copy: Copy[MessageT]) -> None:
        """Keep a message of a noisy tenant for later."""
        self.overtaken.setdefault(tenant, deque()).append(copy)

    def take(self, limit: int, all_in_flight: int, *, noisy: bool) -> list[Copy[MessageT]]:
        """Return at most ``limit`` overtaken messages of the tenants that are noisy, or are no longer."""
        taken: list[Copy[MessageT]] = []
        for tenant, waiting in list(self.overtaken.items()):
            if self.is_noisy(tenant, all_in_flight) == noisy:
                while waiting and len(taken) < limit:
                    taken.append(waiting.popleft())
                    self.count(tenant, 1)
                if not waiting:
                    del self.overtaken[tenant]
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self._in_flight.clear()
        self.overtaken.clear()


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
