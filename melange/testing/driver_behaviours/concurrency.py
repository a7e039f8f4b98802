"""Many threads at once."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from melange.messages import Delivery, Message, Queue, Topic
from melange.testing.driver_behaviours.case import DriverCase, fifo_message, in_parallel, message

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
