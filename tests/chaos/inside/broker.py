"""The in-memory broker with a second count of what consumers hold, independent of their own."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence

from melange.clock import Clock
from melange.drivers.memory import InMemoryDriver
from melange.drivers.sqs_rules import MAX_BATCH
from melange.errors import Failure
from melange.messages import Delivery, Queue


class CountingDriver(InMemoryDriver):
    """Counts the messages that were received and neither acknowledged nor released, and how often each was received.

    A lease is renewed by deferring for exactly ``renewal_seconds``, the consumer's visibility timeout; any other deferral
    releases the message. So no retry of a run may have that delay. ``taken_over`` counts the messages that were
    received again while they were held, which means that their leases were lost. ``acknowledge_seconds`` is
    how long ten acknowledgements take.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        duplicates: float = 0,
        seed: int | None = None,
        renewal_seconds: int = 30,
        acknowledge_seconds: float = 0,
    ) -> None:
        super().__init__(clock=clock, duplicates=duplicates, seed=seed)
        self.most_held = 0
        self.taken_over = 0
        self.receives: Counter[str] = Counter()
        self._renewal_seconds = renewal_seconds
        self._acknowledge_seconds = acknowledge_seconds
        self._counting = threading.Lock()
        self._held: set[str] = set()

    @property
    def held(self) -> int:
        """How many messages consumers hold now."""
        return len(self._held)

    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        deliveries = super().receive(
            queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
        )
        with self._counting:
            for delivery in deliveries:
                message_id = delivery.message.message_id
                self.receives[message_id] = max(self.receives[message_id], delivery.receive_count)
                self.taken_over += message_id in self._held
                self._held.add(message_id)
            self.most_held = max(self.most_held, len(self._held))
        return deliveries

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        time.sleep(self._acknowledge_seconds * math.ceil(len(deliveries) / MAX_BATCH))
        failures = super().acknowledge(deliveries)
        self._let_go(deliveries)
        return failures

    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]:
        if seconds != self._renewal_seconds:
            self._let_go(deliveries)  # before: another may receive it at once
        return super().defer(deliveries, seconds)

    def _let_go(self, deliveries: Sequence[Delivery]) -> None:
        with self._counting:
            self._held.difference_update(delivery.message.message_id for delivery in deliveries)
