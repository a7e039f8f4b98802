"""Negative controls: a driver and stores that are broken on purpose."""

from __future__ import annotations

import time

from chaos.journal import COMPLETED
from chaos.journaling import JournalingDriver, JournalingStore
from melange.deduplication.base import Claimed, ClaimRefusal, DeduplicationKey
from melange.messages import Delivery, Queue


class AcknowledgingEarly(JournalingDriver):
    """Acknowledges messages on receipt."""

    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        deliveries = super().receive(
            queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
        )
        self.acknowledge(deliveries)
        return deliveries


class MarkingBeforeTheRun(JournalingStore):
    """Stores the mark with the claim."""

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        answer = super().claim(key, token, lease_seconds)
        if isinstance(answer, Claimed):
            self.complete(answer)
        return answer


class CompletingUnfenced(JournalingStore):
    """Stores every mark, also that of a worker that has lost its claim."""

    def complete(self, claimed: Claimed) -> bool:
        asked_at = time.monotonic()
        if super().complete(claimed):
            return True
        key = claimed.key
        self._client.hdel(self._name_of(key).decode(), "leased_until", "attempts")
        self._journal.write(COMPLETED, key.message_id, key.listener_name, claimed.token, asked_at)
        return True


DRIVERS = {"acknowledge early": AcknowledgingEarly}
STORES = {"mark before run": MarkingBeforeTheRun, "unfenced complete": CompletingUnfenced}
WITHOUT_STORE = "no deduplication"
WITHOUT_ISOLATION = "poison messages are not isolated"
