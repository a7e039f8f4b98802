"""The worker and the relay of a service, in the background."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from melange import ExchangeMessageConsumer, Worker
from melange.outbox import OutboxRelay


@contextmanager
def running(engine: Engine, consumer: ExchangeMessageConsumer) -> Iterator[None]:
    """Run the relay and the worker until the block ends."""
    relay = OutboxRelay(engine, poll_seconds=0.1)
    worker = Worker(consumer, grace_seconds=5)  # a short grace also makes polls short, so it stops fast
    try:
        with relay.running(), worker.running():
            yield
    finally:
        engine.dispose()
