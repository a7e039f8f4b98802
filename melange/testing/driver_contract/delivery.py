"""What is published or sent arrives as it was, once, in the right queues only; between many threads too."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from melange.messages import Delivery, Message, Queue, Topic
from melange.testing.driver_contract.case import DriverCase, bodies, fifo_message, in_parallel, message

_PUBLISHERS = 4
_RECEIVERS = 4
_GROUPS = 20


class Delivering(DriverCase):
    """Messages arrive unchanged, in the right queues only."""

    def test_a_published_message_arrives_as_it_was(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)
        published = message(
            '{"event_type_name":"OrderPlaced","total":"12.50"}',
            event_type_name="OrderPlaced",
            headers={"correlation-id": "c-1", "tenant": "north"},
        )

        self.publish(topic, published)

        assert self.arrived(queue) == published

    def test_the_time_of_a_message_that_is_published_at_once_arrives(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)
        published = message(published_at=datetime.now(UTC))

        self.publish(topic, published)

        # The broker's own time may stand for it; a busy machine takes its time between the two.
        arrived = self.arrived(queue).published_at
        assert arrived is not None
        assert published.published_at is not None
        assert abs(arrived - published.published_at) < timedelta(seconds=60)

    def test_a_message_without_a_time_has_none_or_that_of_its_sending(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)
        before = datetime.now(UTC)

        self.publish(topic, message(published_at=None))

        found = self.arrived(queue).published_at
        assert found is None or abs(found - before) < timedelta(seconds=60)

    def test_a_sent_message_arrives_as_it_was(self) -> None:
        queue = self.queue()
        sent = message("not even JSON", headers={"correlation-id": "c-1"}, content_type="text/plain")

        self.send(queue, sent)

        assert self.arrived(queue) == sent

    def test_unicode_and_emoji_arrive_in_body_type_and_headers(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)
        published = message(
            '{"name":"Kühlbox 🧊 \t\n \\" 日本"}',
            event_type_name="BestellungÜberfällig",
            headers={"who": "Zoë 🎉", "lines": "one\ntwo"},
        )

        self.publish(topic, published)

        assert self.arrived(queue) == published

    def test_more_than_ten_headers_and_empty_ones_arrive(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)
        headers = {f"header-{number}": f"value {number}" for number in range(14)} | {"empty": ""}

        self.publish(topic, message(event_type_name="OrderPlaced", headers=headers))

        assert self.arrived(queue).headers == headers

    def test_headers_that_the_caller_changes_after_publishing_arrive_unchanged(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)
        headers = {"tenant": "north"}

        self.publish(topic, message(headers=headers))
        headers["tenant"] = "south"

        assert self.arrived(queue).headers == {"tenant": "north"}

    def test_each_queue_gets_its_own_copy(self) -> None:
        topic = self.topic()
        first, second = self.queue(topic), self.queue(topic)

        self.publish(topic, message("news"))
        self.acknowledge(*self.take(first))

        assert bodies(self.take(second)) == ["news"]
        self.expect_nothing(first)

    def test_topics_are_isolated(self) -> None:
        ours, theirs = self.topic(), self.topic()
        queue, other_queue = self.queue(ours), self.queue(theirs)

        self.publish(ours, message("ours"))

        assert bodies(self.take(queue)) == ["ours"]
        self.expect_nothing(other_queue)

    def test_what_is_sent_to_a_queue_stays_out_of_its_neighbours(self) -> None:
        topic = self.topic()
        queue, neighbour = self.queue(topic), self.queue(topic)

        self.send(queue, message("for one"))

        assert bodies(self.take(queue)) == ["for one"]
        self.expect_nothing(neighbour)

    def test_competing_receivers_share_a_queue_without_overlap(self) -> None:
        queue = self.queue()
        self.send(queue, *[message(f"{number}") for number in range(30)])

        shares = in_parallel(*[lambda: self.take(queue, 10)] * 3)

        received = [body for share in shares for body in bodies(share)]
        assert sorted(received, key=int) == [f"{number}" for number in range(30)]

    def test_a_queue_keeps_what_came_before_its_first_receiver(self) -> None:
        topic = self.topic()
        declared = self.queue(topic)
        self.publish(topic, message("early"))

        late_receiver = self.driver.get_queue(declared.name)

        assert bodies(self.take(late_receiver)) == ["early"]

    def test_eleven_published_messages_arrive(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)

        self.publish(topic, *[message(f"{number}") for number in range(11)])

        assert sorted(bodies(self.take(queue, 11)), key=int) == [f"{number}" for number in range(11)]
        self.expect_nothing(queue)

    def test_eleven_sent_messages_arrive(self) -> None:
        queue = self.queue()

        self.send(queue, *[message(f"{number}") for number in range(11)])

        assert sorted(bodies(self.take(queue, 11)), key=int) == [f"{number}" for number in range(11)]
        self.expect_nothing(queue)

    def test_publishing_and_settling_nothing_is_fine(self) -> None:
        topic = self.topic()
        queue = self.queue(topic)

        self.publish(topic)
        self.send(queue)
        self.acknowledge()

        assert self.driver.defer([], 0) == []
        self.expect_nothing(queue)

    def test_a_receive_returns_no_more_than_its_limit(self) -> None:
        queue = self.queue()
        self.send(queue, *[message(f"{number}") for number in range(5)])

        deliveries = self.driver.receive(queue, 2, 0)

        assert len(deliveries) <= 2
        assert len(self.take(queue, 5 - len(deliveries))) == 5 - len(deliveries)

    def test_an_empty_queue_gives_nothing(self) -> None:
        self.expect_nothing(self.queue())


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
