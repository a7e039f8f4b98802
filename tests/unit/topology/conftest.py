"""A small program, its broker in memory, and its topology."""

import pytest

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher
from melange.drivers.memory import InMemoryDriver
from melange.topology import collect


@pytest.fixture
def driver():
    with InMemoryDriver() as driver:
        yield driver


@pytest.fixture
def program(driver):
    """Collect a billing service; keywords are those of its consumer."""

    def make(*topics, name="shop", queue_name="billing", event_types=None, **options):
        def declare():
            ExchangeMessagePublisher("orders", driver, event_types=event_types)
            consumer = ExchangeMessageConsumer(queue_name, *(topics or ("orders",)), driver=driver, **options)
            consumer.listener("OrderPlaced", name="bill")(print)

        return collect(name, declare).topology

    return make
