import pytest

from melange.drivers.memory import InMemoryDriver
from melange.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def driver(clock):
    with InMemoryDriver(clock=clock) as driver:
        yield driver
