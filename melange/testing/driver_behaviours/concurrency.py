"""Many threads at once, and the end of a driver."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from melange.drivers.base import MessagingDriver
from melange.errors import DriverClosedError
from melange.messages import Delivery, Message, Queue, Topic
from melange.testing.driver_behaviours.case import DriverCase, fifo_message, in_parallel, message


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


_PUBLISHERS = 4
_RECEIVERS = 4
_GROUPS = 20


class Concurrency(DriverCase):
    """With many publishers and receivers no message is lost, none comes twice, and groups keep their order."""

    def test_many_messages_between_many_threads_arrive_once_each(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)
        shares = [
            [message(f"{publisher}-{number}") for number in range(self.many_messages // _PUBLISHERS)]
            for publisher in range(_PUBLISHERS)
        ]
        received: Counter[str] = Counter()

        def note(deliveries: Sequence[Delivery]) -> None:
            received.update(delivery.message.body for delivery in deliveries)

        in_parallel(
            *[lambda share=share: self._publish_in_tens(topic, share) for share in shares],
            *self._receivers(queue, note, expected=sum(map(len, shares))),
        )

        assert received == Counter(published.body for share in shares for published in share)

    def test_groups_keep_their_order_under_many_receivers(self) -> None:
        self.needs("fifo")
        topic = self.topic(fifo=True)
        queue = self.queue(topic, fifo=True)
        published = [
            fifo_message(f"{number}", f"group-{number % _GROUPS}")
            for number in range(self.many_fifo_messages)
        ]
        received: defaultdict[str | None, list[int]] = defaultdict(list)

        def note(deliveries: Sequence[Delivery]) -> None:
            for delivery in deliveries:
                received[delivery.message.message_group_id].append(int(delivery.message.body))

        in_parallel(
            lambda: self._publish_in_tens(topic, published),
            *self._receivers(queue, note, expected=len(published)),
        )

        assert received == {
            f"group-{group}": list(range(group, len(published), _GROUPS)) for group in range(_GROUPS)
        }

    def _publish_in_tens(self, topic: Topic, messages: Sequence[Message]) -> None:
        for start in range(0, len(messages), 10):
            self.publish(topic, *messages[start : start + 10])

    def _receivers(
        self, queue: Queue, note: Callable[[Sequence[Delivery]], None], *, expected: int
    ) -> list[Callable[[], None]]:
        """Return receivers that note, then acknowledge, until all is there or nothing came for long."""
        lock = threading.Lock()
        noted = 0

        def receive() -> None:
            nonlocal noted
            give_up_at = time.monotonic() + self.patience_seconds
            while noted < expected and time.monotonic() < give_up_at:
                deliveries = self.driver.receive(queue, 10, 0)
                if not deliveries:
                    threading.Event().wait(0.005)
                    continue
                with lock:
                    note(deliveries)
                    noted += len(deliveries)
                self.acknowledge(*deliveries)
                give_up_at = time.monotonic() + self.patience_seconds

        return [receive] * _RECEIVERS
