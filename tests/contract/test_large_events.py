"""With large events a driver keeps the contract of drivers, also when every body is stored."""

import pytest

from melange.drivers.base import MessagingDriver
from melange.drivers.memory import InMemoryDriver
from melange.large_events import LargeEvents, MemoryStore
from melange.testing import DriverContract, ManualClock

STORED = {
    "a_filter_by_body_sees_what_others_published": "filters see the pointer",
    "redeclaring_without_naming_it_keeps_the_filter[body]": "filters see the pointer",
    "redeclaring_with_another_filter_replaces_it": "filters see the pointer",
    "the_largest_message_of_a_topic_passes_and_one_byte_more_does_not": "larger ones are stored",
    "the_largest_message_of_a_queue_passes_and_one_byte_more_does_not": "larger ones are stored",
    "headers_count_towards_the_size": "larger ones are stored",
    "the_largest_message_can_be_dead_lettered[0]": "there is space for the note beside the pointer",
    "the_largest_message_can_be_dead_lettered[10]": "there is space for the note beside the pointer",
}
"""The tests that mean something else when the broker does not see the body."""


class TestNoBodyIsStored(DriverContract):
    patience_seconds = 2
    many_messages = 500
    many_fifo_messages = 200
    threshold_bytes: int | None = 2**30

    def make_driver(self) -> MessagingDriver:
        return LargeEvents(
            InMemoryDriver(clock=ManualClock()),
            MemoryStore(),
            threshold_bytes=self.threshold_bytes,
            compression="gzip",
            delete_after_acknowledge=True,
        )

    def pass_time(self, driver: MessagingDriver, seconds: float) -> None:
        assert isinstance(driver.clock, ManualClock)
        driver.clock.advance(seconds)


class TestEveryBodyIsStored(TestNoBodyIsStored):
    threshold_bytes = 0

    @pytest.fixture(autouse=True)
    def leave_out_what_needs_the_body(self, request: pytest.FixtureRequest) -> None:
        reason = STORED.get(request.node.name.removeprefix("test_"))
        if reason:
            pytest.skip(reason)
