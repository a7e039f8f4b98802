"""What the tests of every database are given."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine

import waiting
from melange.drivers.base import MessagingDriver
from melange.outbox import OutboxRelay
from melange.testing import ManualClock
from outbox_behaviours.databases import Database
from outbox_behaviours.drivers import JudgingDriver
from outbox_behaviours.processes import RelayProcess

DEADLINE_SECONDS = 30
STEP_SECONDS = 0.1


@pytest.fixture
def clock() -> ManualClock:
    """The clock of driver and relays: it stands still but for ``eventually``."""
    return ManualClock()


@pytest.fixture
def driver(clock: ManualClock) -> Iterator[JudgingDriver]:
    with JudgingDriver(clock=clock) as driver:
        yield driver


@pytest.fixture
def relay_pending(database: Database, driver: JudgingDriver) -> Callable[..., int]:
    """Publish what is pending, in this thread, with a relay made for it."""
    return lambda **options: OutboxRelay(database.engine, driver, **options).relay_pending()


@pytest.fixture
def start_relay(database: Database, driver: JudgingDriver) -> Iterator[Callable[..., OutboxRelay]]:
    """Start relays in the background, and stop them in the end, also those of a test that failed."""
    relays: list[OutboxRelay] = []
    threads_before = set(_relay_threads())

    def start(
        driver: MessagingDriver = driver, engine: Engine = database.engine, **options: object
    ) -> OutboxRelay:
        relay = OutboxRelay(engine, driver, **{"poll_seconds": 0.02, **options})
        relay.start()
        relays.append(relay)
        return relay

    yield start
    for relay in relays:
        relay.stop(DEADLINE_SECONDS)
    # A thread outlives its last step a little.
    waiting.eventually(lambda: not set(_relay_threads()) - threads_before)


@pytest.fixture
def start_process(database: Database) -> Iterator[Callable[..., RelayProcess]]:
    """Start relays in processes of their own; what is left in the end is killed, also after a failure."""
    started: list[RelayProcess] = []

    def start(*arguments: int) -> RelayProcess:
        started.append(RelayProcess(database.engine.url, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.end(signal.SIGKILL)


def _relay_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "melange-outbox-relay"]


@pytest.fixture
def eventually(clock: ManualClock) -> Callable[[Callable[[], object]], object]:
    """Wait until something is so, and let time pass quickly meanwhile."""

    def wait(condition: Callable[[], object]) -> object:
        def look() -> object:
            result = condition()
            if not result:
                clock.advance(STEP_SECONDS)
            return result

        return waiting.eventually(look)

    return wait
