"""Tenants of a standard queue: those that occupy too many receivers wait behind the others, as in SQS's fair queues.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues-detailed.html
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")

NOISY_IN_FLIGHT = 30
NOISY_SHARE = 0.1
"""A tenant is noisy if it has this many messages in flight, and more than this share of all."""


class Tenants(Generic[ItemT]):
    """The number of messages that each tenant has in flight, and those of noisy tenants that others have overtaken.

    The group id of a message names its tenant. Each message without one is a tenant of its own, and never noisy.
    """

    __slots__ = ("_in_flight", "overtaken")

    def __init__(self) -> None:
        self._in_flight: dict[str, int] = {}
        self.overtaken: dict[str, deque[ItemT]] = {}

    def count(self, tenant: str, difference: int) -> None:
        """Note that so many more, or fewer, messages of the tenant are in flight."""
        count = self._in_flight[tenant] = self._in_flight.get(tenant, 0) + difference
        if not count:
            del self._in_flight[tenant]

    def is_noisy(self, tenant: str, all_in_flight: int) -> bool:
        """Return True if the tenant occupies too many receivers."""
        in_flight = self._in_flight.get(tenant, 0)
        return in_flight >= NOISY_IN_FLIGHT and in_flight > NOISY_SHARE * all_in_flight

    def overtake(self, tenant: str, item: ItemT) -> None:
        """Keep a message of a noisy tenant for later."""
        self.overtaken.setdefault(tenant, deque()).append(item)

    def take(self, limit: int, all_in_flight: int, *, noisy: bool) -> list[ItemT]:
        """Return at most ``limit`` overtaken messages of the tenants that are noisy, or are no longer."""
        taken: list[ItemT] = []
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
