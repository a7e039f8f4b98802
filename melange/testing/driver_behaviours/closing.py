"""The end of a driver."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from melange.drivers.base import MessagingDriver
from melange.errors import DriverClosedError
from melange.testing.driver_behaviours.case import DriverCase, message


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
