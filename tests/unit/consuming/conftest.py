"""A driver whose time the tests move, and a store of its own for each test."""

import pytest

from consumer_options import grouped
from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, MemoryDeduplicationStore
from melange.drivers.memory import InMemoryDriver


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
