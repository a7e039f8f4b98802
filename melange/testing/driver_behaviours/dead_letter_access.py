"""Administration of dead letters: looking at them, and sending them on as they were."""

from __future__ import annotations

import pytest

from melange.drivers.dead_letters import DeadLetterAccess
from melange.messages import DEAD_LETTER_HEADER, Delivery, Queue
from melange.testing.driver_behaviours.case import DriverCase, fifo_message, message

NOTE = '{"reason":"it cannot succeed","listener":"take_into_stock","attempts":3}'


class DeadLetterAdministration(DriverCase):
    """What ``DeadLetterAccess`` promises. Skipped for a driver that offers none."""

    def test_a_dead_letter_goes_back_as_it_was_without_its_note(self) -> None:
        source, delivery = self._dead_letter()
        original = delivery.message

        assert self._access().resend([delivery], source) == []
        self.acknowledge(delivery)

        (again,) = self.take(source)
        assert again.message.body == original.body
        assert again.message.message_id == original.message_id
        assert again.message.event_type_name == original.event_type_name
        assert again.message.headers == {"tenant": "north"}
        assert DEAD_LETTER_HEADER in original.headers

    def test_a_dead_letter_that_stays_one_goes_on_with_a_new_note(self) -> None:
        _, delivery = self._dead_letter()
        target = self.queue()

        assert self._access().resend([delivery], target, notes={delivery.receipt_handle: "moved"}) == []

        (again,) = self.take(target)
        assert again.message.headers == {DEAD_LETTER_HEADER: "moved", "tenant": "north"}

    def test_a_dead_letter_keeps_its_group(self) -> None:
        self.needs("fifo")
        source, delivery = self._dead_letter(fifo=True)

        assert self._access().resend([delivery], source) == []

        (again,) = self.take(source)
        assert again.message.message_group_id == "north"

    def test_a_dead_letter_that_is_sent_twice_counts_as_one_on_a_fifo_queue(self) -> None:
        self.needs("fifo")
        source, delivery = self._dead_letter(fifo=True)
        access = self._access()

        assert access.resend([delivery], source) == []
        assert access.resend([delivery], source) == []

        self.acknowledge(*self.take(source))
        self.expect_nothing(source)

    def test_the_sources_of_a_dead_letter_queue_can_be_found(self) -> None:
        source, delivery = self._dead_letter()

        sources = self._access().sources(delivery.queue)

        assert list(sources) == [source.name]
        assert self.driver.get_queue(sources[source.name]).address == source.address

    def test_what_the_broker_moved_by_itself_says_so(self) -> None:
        self.needs("dead_letter_queues")
        access = self._access()
        dead_letters = self.queue()
        source = self.queue(dead_letter_queue=dead_letters, max_receive_count=1)
        self.send(source, message("poison"))
        self.driver.defer(self.take(source), 0)
        self.expect_nothing(source)

        (found,) = access.browse(dead_letters, visibility_timeout_seconds=30)

        assert found.was_moved
        assert found.sent_at is not None

    def _access(self) -> DeadLetterAccess:
        access = self.driver.dead_letter_access
        if access is None:
            pytest.skip(f"{type(self.driver).__name__} offers no administration of dead letters")
        return access

    def _dead_letter(self, *, fifo: bool = False) -> tuple[Queue, Delivery]:
        """Return a queue, and a delivery from its dead-letter queue of a message that a consumer has sent there."""
        access = self._access()
        dead_letters = self.queue(fifo=fifo)
        source = self.queue(fifo=fifo, dead_letter_queue=dead_letters, max_receive_count=10)
        make = fifo_message if fifo else message
        group = {"group": "north"} if fifo else {}
        self.send(
            source, make("failing", event_type_name="OrderPlaced", headers={"tenant": "north"}, **group)
        )
        (delivery,) = self.take(source)
        self.driver.dead_letter(delivery, NOTE)
        self.acknowledge(delivery)
        found: list[Delivery] = []

        def arrived() -> bool:
            found.extend(one.delivery for one in access.browse(dead_letters, visibility_timeout_seconds=30))
            return bool(found)

        self.until(arrived, "the dead letter")
        return source, found[0]
