"""Receives that wait for messages, messages that are visible later, and the end of a driver, which ends all waits."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from melange.drivers.base import BrokerAdministration, MessagingDriver
from melange.errors import ConfigurationError, DriverClosedError, InvalidMessageError
from melange.messages import Delivery, Queue
from melange.testing.driver_contract.case import DriverCase, bodies, fifo_message, message


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


class Waiting(DriverCase):
    """A receive waits for the first message, at most as long as requested."""

    def test_a_waiting_receive_returns_when_something_arrives(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)
        wait_seconds = self.driver.capabilities.max_wait_seconds
        with ThreadPoolExecutor() as pool:
            started_at = time.monotonic()
            receiver = self._start_receive(pool, queue, wait_seconds)

            self.publish(topic, message("at last"))

            assert bodies(receiver.result()) == ["at last"]
            assert time.monotonic() - started_at < wait_seconds * 0.75

    def test_a_receive_does_not_wait_when_something_is_there(self) -> None:
        queue = self.queue()
        self.send(queue, message("here"))
        started_at = time.monotonic()

        deliveries = self.driver.receive(queue, 10, self.driver.capabilities.max_wait_seconds)

        assert bodies(deliveries) == ["here"]
        assert time.monotonic() - started_at < self.driver.capabilities.max_wait_seconds * 0.75

    def test_a_waiting_receive_of_an_empty_queue_ends_after_its_time_and_not_before(self) -> None:
        queue = self.queue()
        started_at = self.driver.clock.monotonic()
        with ThreadPoolExecutor() as pool:
            receiver = self._start_receive(pool, queue, wait_seconds=1)

            self._pass_time_until_done(receiver)

            assert receiver.result() == []
            # Brokers measure time by their own clock, and round it.
            assert self.driver.clock.monotonic() - started_at > 0.9

    def test_a_waiting_receive_gets_what_becomes_visible_meanwhile(self) -> None:
        queue = self.queue()
        self.send(queue, message("again"))
        self.take(queue, visibility_timeout_seconds=self.short_visibility_seconds)
        with ThreadPoolExecutor() as pool:
            receiver = self._start_receive(pool, queue, self.driver.capabilities.max_wait_seconds)

            self._pass_time_until_done(receiver)

            assert bodies(receiver.result()) == ["again"]

    def test_of_many_waiting_receivers_each_gets_something(self) -> None:
        queue = self.queue()
        with ThreadPoolExecutor() as pool:
            receivers = [self._start_receive(pool, queue, wait_seconds=10, limit=1) for _ in range(3)]

            self.send(queue, *[message(f"{number}") for number in range(3)])

            received = [body for receiver in receivers for body in bodies(receiver.result())]
            assert sorted(received) == ["0", "1", "2"]

    def _start_receive(
        self, pool: ThreadPoolExecutor, queue: Queue, wait_seconds: int, limit: int = 10
    ) -> Future[list[Delivery]]:
        begun = threading.Event()

        def receive() -> list[Delivery]:
            begun.set()
            return self.driver.receive(queue, limit, wait_seconds)

        receiver = pool.submit(receive)
        begun.wait()
        # Most of the time it is waiting by now. If it is not, the test proves less but still passes.
        threading.Event().wait(0.05)
        return receiver

    def _pass_time_until_done(self, receiver: Future[list[Delivery]]) -> None:
        for _ in range(10):
            self.pass_time(self.driver, 0.5)
            if receiver.done():
                return
            threading.Event().wait(0.02)


class Closing(DriverCase):
    """Closing is idempotent, ends running receives, and refuses later calls."""

    def test_closing_twice_is_fine(self) -> None:
        driver = self.make_driver()

        driver.close()
        driver.close()

    def test_leaving_its_block_closes_a_driver(self) -> None:
        with self.make_driver() as driver:
            pass

        with pytest.raises(DriverClosedError):
            driver.get_queue("any")

    def test_everything_after_close_is_a_clear_error(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)
        self.send(queue, message())
        (delivery,) = self.take(queue)
        driver = self._closed_driver()
        uses: list[Callable[[], object]] = [
            lambda: driver.declare_topic("any"),
            lambda: driver.declare_queue("any"),
            lambda: driver.get_topic(topic.name),
            lambda: driver.get_queue(queue.name),
            lambda: driver.publish(topic, [message()]),
            lambda: driver.send(queue, [message()]),
            lambda: driver.receive(queue, 1, 0),
            lambda: driver.acknowledge([delivery]),
            lambda: driver.defer([delivery], 0),
        ]
        if isinstance(driver, BrokerAdministration):
            uses += [
                lambda: driver.list_bindings(queue),
                lambda: driver.measure_queue(queue),
                lambda: driver.purge_queue(queue),
                lambda: driver.delete_queue(queue),
                lambda: driver.delete_topic(topic),
            ]

        for use in uses:
            with pytest.raises(DriverClosedError):
                use()

    def test_a_receive_under_way_ends_soon_after_close(self) -> None:
        driver = self.make_driver()
        queue = driver.declare_queue(self.name())
        self._queues.append(queue)
        with ThreadPoolExecutor() as pool:
            receiver = pool.submit(self._receive, driver, queue.name)
            threading.Event().wait(0.1)

            driver.close()

            assert receiver.result() == []

    def _closed_driver(self) -> MessagingDriver:
        driver = self.make_driver()
        driver.close()
        return driver

    def _receive(self, driver: MessagingDriver, queue_name: str) -> list[object]:
        # A driver may end it with an error or with an empty list. It must end.
        with contextlib.suppress(DriverClosedError):
            return list(driver.receive(driver.get_queue(queue_name), 1, 2))
        return []
