"""What works in the background for a service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from melange import ExchangeMessageConsumer, Worker
from melange.outbox import OutboxRelay


@contextmanager
def running(engine: Engine, consumer: ExchangeMessageConsumer) -> Iterator[None]:
    """Relay what is in the outbox, and listen, until the block ends."""
    relay = OutboxRelay(engine, poll_seconds=0.1)
    worker = Worker(consumer, grace_seconds=5)  # with so short a grace it stops within a second
    relay.start()
    worker.start()
    try:
        yield
    finally:
        worker.stop()
        relay.stop()
        engine.dispose()
