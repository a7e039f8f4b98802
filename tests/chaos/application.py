"""The program of a worker process: ``python -m chaos.application SETTINGS``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from chaos.deaths import EXIT_CODE, may_die_at
from chaos.journal import BEGAN, EFFECT, FAILED, Journal
from chaos.journaling import JournalingDriver, JournalingStore
from chaos.program import run_program
from chaos.sabotage import DRIVERS, STORES, WITHOUT_ISOLATION, WITHOUT_STORE
from chaos.settings import Settings
from melange import (
    NO_DEDUPLICATION,
    Backoff,
    DeduplicationStore,
    ExchangeListener,
    ExchangeMessageConsumer,
    QueueOptions,
    RetryPolicy,
    Worker,
)
from melange.consuming import poison_messages
from melange.deduplication.base import NoDeduplication


class JobFailed(Exception):
    """The event asks the listener to fail this time."""


class Job(ExchangeListener):
    """Works for as long as the event says, fails as often, and kills the process if the event says so."""

    def __init__(self, name: str, journal: Journal) -> None:
        self.name = name
        self._journal = journal

    def process(self, event: Any, *, message_id: str, attempt: int) -> None:
        self._journal.write(BEGAN, message_id, self.name)
        may_die_at("before-effect")
        time.sleep(event["work_seconds"])
        if event["deadly"]:
            os._exit(EXIT_CODE)
        if attempt <= event["failures"].get(self.name, 0):
            self._journal.write(FAILED, message_id, self.name)
            raise JobFailed
        self._journal.write(EFFECT, message_id, self.name)
        may_die_at("after-effect")


def main(argument: str) -> int:
    """Work until told to stop; return the worker's exit code."""
    settings = Settings.from_text(argument)
    journal = Journal(Path(settings.journals))
    driver = DRIVERS.get(settings.sabotage, JournalingDriver)(journal, settings.endpoint_url)
    store: DeduplicationStore | NoDeduplication = NO_DEDUPLICATION
    if settings.sabotage != WITHOUT_STORE:
        store = STORES.get(settings.sabotage, JournalingStore)(journal, settings.redis_url)
    if settings.sabotage == WITHOUT_ISOLATION:
        poison_messages.MOST_ISOLATED = 0
    consumer = ExchangeMessageConsumer(
        settings.queue,
        settings.topic,
        driver=driver,
        deduplication=store,
        retry=RetryPolicy(
            max_attempts=settings.max_attempts, backoff=Backoff(first_seconds=0.2, max_seconds=2.0)
        ),
        queue=QueueOptions(
            visibility_timeout_seconds=settings.visibility_timeout_seconds, wait_seconds=settings.wait_seconds
        ),
    )
    for name in settings.listeners:
        consumer.subscribe(Job(name, journal))
    worker = Worker(consumer, concurrency=settings.concurrency, grace_seconds=settings.grace_seconds)
    return worker.run()


if __name__ == "__main__":
    run_program(main)
