import pytest

from melange.drivers.memory import InMemoryDriver


@pytest.fixture
def driver(clock):
    with InMemoryDriver(clock=clock) as driver:
        yield driver
