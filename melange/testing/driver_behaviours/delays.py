"""Messages that are sent now and visible later."""

from __future__ import annotations

import pytest

from melange.errors import ConfigurationError, InvalidMessageError
from melange.testing.driver_behaviours.case import DriverCase, bodies, fifo_message, message


class Delays(DriverCase):
    """A delay keeps a message invisible, within limits."""

    def test_a_delayed_message_is_visible_after_its_delay_and_not_before(self) -> None:
        self.needs_delays()
        queue = self.queue()

        self.send(queue, message("later"), delay_seconds=self.short_visibility_seconds)

        self.expect_nothing(queue)
        self.pass_time(self.driver, self.short_visibility_seconds)
        assert bodies(self.take(queue)) == ["later"]

    def test_a_delay_holds_nothing_else_back(self) -> None:
        self.needs_delays()
        queue = self.queue()
        self.send(queue, message("later"), delay_seconds=60)

        self.send(queue, message("now"))

        assert bodies(self.take(queue)) == ["now"]

    @pytest.mark.parametrize("delay_seconds", [-1, 0.5, "1", True])
    def test_a_delay_that_is_no_whole_number_of_seconds_is_refused(self, delay_seconds: int) -> None:
        queue = self.queue()

        with pytest.raises(ConfigurationError, match="delay_seconds"):
            self.driver.send(queue, [message()], delay_seconds=delay_seconds)

        self.expect_nothing(queue)

    def test_a_delay_beyond_the_brokers_longest_is_refused(self) -> None:
        queue = self.queue()
        too_long = self.max_delay_seconds + 1

        with pytest.raises(ConfigurationError, match="delay_seconds"):
            self.driver.send(queue, [message()], delay_seconds=too_long)

    def test_a_fifo_queue_refuses_a_delay_of_a_single_message(self) -> None:
        self.needs("fifo")
        self.needs_delays()
        queue = self.queue(fifo=True)

        with pytest.raises(InvalidMessageError, match="FIFO"):
            self.driver.send(queue, [fifo_message("later")], delay_seconds=1)

        self.expect_nothing(queue)
