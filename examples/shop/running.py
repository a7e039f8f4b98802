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
    relay, worker = OutboxRelay(engine), Worker(consumer)
    relay.start()
    worker.start()
    try:
        yield
    finally:
        worker.stop()
        relay.stop()
        engine.dispose()
