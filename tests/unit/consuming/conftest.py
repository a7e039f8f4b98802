"""A driver whose time the tests move, a store of its own for each test, and workers that end with it."""

from collections.abc import Callable, Iterator

import pytest

from consumer_options import grouped
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, MemoryDeduplicationStore, Worker
from melange.drivers.memory import InMemoryDriver
from watched_driver import worker_on

DEADLINE_SECONDS = 30


@pytest.fixture
def driver(clock) -> InMemoryDriver:
    return InMemoryDriver(clock=clock)


@pytest.fixture
def store(clock) -> MemoryDeduplicationStore:
    return MemoryDeduplicationStore(clock=clock)


@pytest.fixture
def make_consumer(driver, store):
    """Build consumers of queue ``stock`` on topic ``products`` that never wait and retry after 10 s."""

    def make(queue_name="stock", *topics, **options) -> ExchangeMessageConsumer:
        options = {"deduplication": store, "wait_seconds": 0, "backoff": lambda attempts: 10, **options}
        return ExchangeMessageConsumer(
            queue_name, *(topics or ("products",)), driver=driver, **grouped(**options)
        )

    return make


@pytest.fixture
def publisher(driver) -> ExchangeMessagePublisher:
    return ExchangeMessagePublisher("products", driver)


@pytest.fixture
def dead_letters(driver):
    """Return what is in the dead-letter queue of ``stock``."""

    def receive(queue_name="stock-dlq"):
        deliveries = driver.receive(driver.get_queue(queue_name), 10, 0)
        driver.acknowledge(deliveries)
        return [delivery.message for delivery in deliveries]

    return receive


@pytest.fixture
def running() -> Iterator[Callable[..., Worker]]:
    """Start workers, and stop them at the end."""
    workers: list[Worker] = []

    def start(*consumers: ExchangeMessageConsumer, **options) -> Worker:
        workers.append(worker_on(*consumers, **options))
        workers[-1].start()
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop(DEADLINE_SECONDS)
