"""The program of a worker process: ``python -m chaos.application SETTINGS``."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chaos.journal import (
    ACKNOWLEDGED,
    BEGAN,
    CLAIMED,
    COMPLETED,
    EFFECT,
    FAILED,
    POLLED,
    RECEIVED,
    Journal,
)
from chaos.settings import Settings
from melange import Backoff, DeduplicationStore, ExchangeListener, ExchangeMessageConsumer, Worker
from melange.deduplication.base import Claimed, ClaimRefusal, DeduplicationKey
from melange.deduplication.redis import RedisDeduplicationStore
from melange.drivers.aws import AwsDriver
from melange.drivers.base import Queue
from melange.failpoints import fail_point
from melange.messages import Delivery, Failure

LOOK_FOR_PARENT_SECONDS = 0.5
HANDLE_CHARACTERS = 24


class JobFailed(Exception):
    """The listener was told to fail this time."""


class Job(ExchangeListener):
    """Works for as long as the event says, and fails as often."""

    def __init__(self, name: str, journal: Journal) -> None:
        self.name = name
        self._journal = journal

    def process(self, event: Any, *, message_id: str, receive_count: int) -> None:
        self._journal.write(BEGAN, message_id, self.name)
        fail_point("before-effect")
        time.sleep(event["work_seconds"])
        if receive_count <= event["failures"].get(self.name, 0):
            self._journal.write(FAILED, message_id, self.name)
            raise JobFailed
        self._journal.write(EFFECT, message_id, self.name)
        fail_point("after-effect")


class JournalingDriver(AwsDriver):
    """Writes down what was received and what the broker took as acknowledged."""

    def __init__(self, journal: Journal, endpoint_url: str) -> None:
        super().__init__(endpoint_url=endpoint_url, region_name="us-east-1")
        self._journal = journal

    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        self._journal.write(POLLED)
        deliveries = super().receive(
            queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
        )
        for delivery in deliveries:
            self._journal.write(RECEIVED, delivery.message.message_id, token=receipt(delivery))
        return deliveries

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]:
        asked_at = time.monotonic()
        failures = super().acknowledge(deliveries)
        failed = {id(failure.item) for failure in failures}
        for delivery in deliveries:
            if id(delivery) not in failed:
                message_id = delivery.message.message_id
                self._journal.write(ACKNOWLEDGED, message_id, token=receipt(delivery), asked_at=asked_at)
        return failures


class JournalingStore(RedisDeduplicationStore):
    """Writes down which claims and marks were granted."""

    def __init__(self, journal: Journal, redis_url: str) -> None:
        super().__init__(redis_url)
        self._journal = journal

    def claim(
        self, key: DeduplicationKey, token: str, lease_seconds: float, *, body: str
    ) -> Claimed | ClaimRefusal:
        asked_at = time.monotonic()
        answer = super().claim(key, token, lease_seconds, body=body)
        if isinstance(answer, Claimed):
            self._journal.write(CLAIMED, key.message_id, key.listener_name, token, asked_at)
        return answer

    def complete(self, claimed: Claimed) -> bool:
        asked_at = time.monotonic()
        is_marked = super().complete(claimed)
        if is_marked:
            key = claimed.key
            self._journal.write(COMPLETED, key.message_id, key.listener_name, claimed.token, asked_at)
        return is_marked


class AcknowledgingEarly(JournalingDriver):
    """Negative control: acknowledges what it has only just received."""

    def receive(
        self, queue: Queue, limit: int, wait_seconds: int, *, visibility_timeout_seconds: int = 30
    ) -> list[Delivery]:
        deliveries = super().receive(
            queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
        )
        self.acknowledge(deliveries)
        return deliveries


class MarkingBeforeTheRun(JournalingStore):
    """Negative control: marks as done what it only claims."""

    def claim(
        self, key: DeduplicationKey, token: str, lease_seconds: float, *, body: str
    ) -> Claimed | ClaimRefusal:
        answer = super().claim(key, token, lease_seconds, body=body)
        if isinstance(answer, Claimed):
            self.complete(answer)
        return answer


class CompletingUnfenced(JournalingStore):
    """Negative control: marks as done whoever asks, also who has lost the claim."""

    def complete(self, claimed: Claimed) -> bool:
        asked_at = time.monotonic()
        if super().complete(claimed):
            return True
        key = claimed.key
        self._client.hdel(self._key(key).decode(), "leased_until")
        self._journal.write(COMPLETED, key.message_id, key.listener_name, claimed.token, asked_at)
        return True


DRIVERS = {"acknowledge early": AcknowledgingEarly}
STORES = {"mark before run": MarkingBeforeTheRun, "unfenced complete": CompletingUnfenced}
WITHOUT_STORE = "no deduplication"
SABOTAGES = (*DRIVERS, *STORES, WITHOUT_STORE)


def main(settings: Settings) -> int:
    """Work until told to stop; return the worker's exit code."""
    journal = Journal(Path(settings.journals))
    driver = DRIVERS.get(settings.sabotage, JournalingDriver)(journal, settings.endpoint_url)
    store: DeduplicationStore | None = None
    if settings.sabotage != WITHOUT_STORE:
        store = STORES.get(settings.sabotage, JournalingStore)(journal, settings.redis_url)
    consumer = ExchangeMessageConsumer(
        settings.queue,
        settings.topic,
        driver=driver,
        deduplication=store,
        max_attempts=settings.max_attempts,
        visibility_timeout_seconds=settings.visibility_timeout_seconds,
        wait_seconds=settings.wait_seconds,
        backoff=Backoff(first_seconds=0.2, max_seconds=2.0),
    )
    for name in settings.listeners:
        consumer.subscribe(Job(name, journal))
    worker = Worker(consumer, concurrency=settings.concurrency, grace_seconds=settings.grace_seconds)
    return worker.run()


def receipt(delivery: Delivery) -> str:
    """Return what tells this receipt from any other."""
    return delivery.receipt_handle[-HANDLE_CHARACTERS:]


def end_with(parent: int) -> None:
    """End this process once its parent is gone; a killed test run shall leave no workers behind."""
    while os.getppid() == parent:
        time.sleep(LOOK_FOR_PARENT_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(process)d %(levelname)s %(message)s")
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    sys.exit(main(Settings.from_text(sys.argv[1])))
