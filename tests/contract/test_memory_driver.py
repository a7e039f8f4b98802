"""The in-memory driver keeps the contract of drivers."""

from melange.drivers.base import MessagingDriver
from melange.drivers.memory import InMemoryDriver
from melange.testing import DriverContract, ManualClock


class TestInMemoryDriver(DriverContract):
    patience_seconds = 2

    def make_driver(self) -> MessagingDriver:
        return InMemoryDriver(clock=ManualClock())

    def pass_time(self, driver: MessagingDriver, seconds: float) -> None:
        assert isinstance(driver.clock, ManualClock)
        driver.clock.advance(seconds)
