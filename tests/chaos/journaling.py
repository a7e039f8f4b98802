"""The driver and the store of the workers: melange's own. They record what they were granted, and die on request."""

from __future__ import annotations

import time
from collections.abc import Sequence

from chaos.deaths import may_die_at
from chaos.journal import ACKNOWLEDGED, CLAIMED, COMPLETED, POLLED, PUBLISHED, RECEIVED, Journal
from melange.deduplication.base import Claimed, ClaimRefusal, DeduplicationKey
from melange.deduplication.redis_store import RedisDeduplicationStore
from melange.drivers.aws import AwsDriver
from melange.errors import Failure
from melange.messages import Delivery, Message, Queue, Topic

BUSY_MACHINE_SECONDS = 60.0
"""A program that declares its queue among faults must not end at the default of fifteen."""


class JournalingDriver(AwsDriver):
    """Writes down what was published and received, and what the broker took as acknowledged."""

    def __init__(self, journal: Journal, endpoint_url: str) -> None:
        super().__init__(
            endpoint_url=endpoint_url, region_name="us-east-1", call_timeout_seconds=BUSY_MACHINE_SECONDS
        )
        self._journal = journal
        self._has_polled = False
        self.read_at = ""
        """When a relay has read what it publishes."""

    def publish(self, topic: Topic, messages: Sequence[Message]) -> list[Failure[Message]]:
        asked_at = time.monotonic()
        failures = super().publish(topic, messages)
        failed = {failure.item.message_id for failure in failures}
        for message in messages:
            if message.message_id not in failed:
                self._journal.write(PUBLISHED, message.message_id, token=self.read_at, asked_at=asked_at)
        return failures

    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        if not self._has_polled:  # once: a journal that grows tells of progress
            self._journal.write(POLLED)
            self._has_polled = True
        deliveries = super().receive(
            queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
        )
        for delivery in deliveries:
            self._journal.write(RECEIVED, delivery.message.message_id, token=str(delivery.receive_count))
            may_die_at("after-receive")
        return deliveries

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        for _ in deliveries:
            may_die_at("before-acknowledge")
        asked_at = time.monotonic()
        failures = super().acknowledge(deliveries)
        failed = {failure.item.receipt_handle for failure in failures}
        for delivery in deliveries:
            if delivery.receipt_handle not in failed:
                message_id = delivery.message.message_id
                self._journal.write(
                    ACKNOWLEDGED, message_id, token=str(delivery.receive_count), asked_at=asked_at
                )
                may_die_at("after-acknowledge")
        return failures


class JournalingStore(RedisDeduplicationStore):
    """Writes down which claims and marks were granted."""

    def __init__(self, journal: Journal, redis_url: str) -> None:
        super().__init__(redis_url)
        self._journal = journal

    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        asked_at = time.monotonic()
        answer = super().claim(key, token, lease_seconds)
        if isinstance(answer, Claimed):
            self._journal.write(CLAIMED, key.message_id, key.listener_name, token, asked_at)
            may_die_at("after-claim")
        return answer

    def complete(self, claimed: Claimed) -> bool:
        may_die_at("before-mark")
        asked_at = time.monotonic()
        is_marked = super().complete(claimed)
        if is_marked:
            key = claimed.key
            self._journal.write(COMPLETED, key.message_id, key.listener_name, claimed.token, asked_at)
            may_die_at("after-mark")
        return is_marked
