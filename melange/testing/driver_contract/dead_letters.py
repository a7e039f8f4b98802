"""Dead letters: messages that were received too often or sent there by a consumer; looking at them, sending them back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from melange.drivers.base import NO_DEAD_LETTER_QUEUE
from melange.drivers.dead_letters import DeadLetterAccess
from melange.drivers.sqs_rules import message_size
from melange.errors import ConfigurationError
from melange.messages import DEAD_LETTER_HEADER, Delivery, Queue
from melange.testing.driver_contract.case import DriverCase, bodies, fifo_message, message

NOTE = '{"reason":"it cannot succeed","listener":"take_into_stock","attempts":3}'


class DeadLetters(DriverCase):
    """The broker dead-letters what was received too often; ``dead_letter`` does it at once."""

    def test_a_message_received_too_often_is_dead_lettered_as_it_was(self) -> None:
        source, dead_letters = self._queue_with_dead_letters(max_receive_count=2)
        poison = message("poison", event_type_name="OrderPlaced", headers={"tenant": "north"})
        self.send(source, poison)

        self._fail(source, times=2)

        self.expect_nothing(source)
        assert self.arrived(dead_letters) == poison

    def test_the_receive_count_goes_on_in_the_dead_letter_queue(self) -> None:
        source, dead_letters = self._queue_with_dead_letters(max_receive_count=2)
        self.send(source, message("poison"))
        self._fail(source, times=2)
        self.expect_nothing(source)

        (delivery,) = self.take(dead_letters)

        assert delivery.receive_count == 3

    def test_a_dead_letter_queue_with_one_of_its_own_counts_only_its_receives(self) -> None:
        self.needs("dead_letter_queues")
        last = self.queue()
        middle = self.queue(dead_letter_queue=last, max_receive_count=2)
        source = self.queue(dead_letter_queue=middle, max_receive_count=2)
        self.send(source, message("poison"))
        self._fail(source, times=2)
        self.expect_nothing(source)

        self._fail(middle, times=1)

        assert bodies(self.take(middle)) == ["poison"]
        self.expect_nothing(last)

    def test_a_message_received_less_often_is_not_dead_lettered(self) -> None:
        source, dead_letters = self._queue_with_dead_letters(max_receive_count=3)
        self.send(source, message("flaky"))

        self._fail(source, times=2)

        (delivery,) = self.take(source)
        assert delivery.receive_count == 3
        self.expect_nothing(dead_letters)

    def test_without_a_dead_letter_queue_a_message_stays(self) -> None:
        queue = self.queue()
        self.send(queue, message("stubborn"))

        self._fail(queue, times=12)

        assert bodies(self.take(queue)) == ["stubborn"]

    def test_a_poison_message_does_not_hold_up_the_others(self) -> None:
        source, _ = self._queue_with_dead_letters(max_receive_count=1)
        self.send(source, message("poison"))
        self._fail(source, times=1)

        self.send(source, message("healthy"))

        assert bodies(self.take(source)) == ["healthy"]

    def test_the_dead_letters_of_a_fifo_queue_are_fifo(self) -> None:
        self.needs("fifo")
        source, dead_letters = self._queue_with_dead_letters(max_receive_count=1, fifo=True)
        self.send(source, *[fifo_message(body) for body in ("first", "second")])
        self._fail(source, times=1, count=2)

        self.send(source, fifo_message("healthy"))

        assert bodies(self.take(source)) == ["healthy"]
        deliveries = self.take(dead_letters, 2)
        assert bodies(deliveries) == ["first", "second"]
        assert {delivery.message.message_group_id for delivery in deliveries} == {"group"}
        self.expect_nothing(dead_letters)

    def test_a_rejected_message_is_dead_lettered_at_once_as_it_was_with_the_note(self) -> None:
        source, dead_letters = self._declared()
        rejected = message(
            '{"name":"Kühlbox 🧊"}',
            event_type_name="OrderPlaced",
            headers={"tenant": "north", "empty": ""},
            published_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
            content_type="text/plain",
        )
        self.send(source, rejected)
        (delivery,) = self.take(source)

        self.driver.dead_letter(delivery, NOTE)

        copy = self.arrived(dead_letters)
        assert copy.headers == {**rejected.headers, DEAD_LETTER_HEADER: NOTE}
        assert copy._replace(headers=rejected.headers) == rejected
        self.acknowledge(delivery)
        self.expect_nothing(source)

    def test_dead_lettering_acknowledges_nothing(self) -> None:
        source, dead_letters = self._declared()
        self.send(source, message("rejected"))
        (delivery,) = self.take(source)

        self.driver.dead_letter(delivery, NOTE)

        assert self.driver.defer([delivery], 0) == []
        assert bodies(self.take(source)) == ["rejected"]
        assert bodies(self.take(dead_letters)) == ["rejected"]

    def test_the_note_of_an_earlier_dead_letter_is_replaced(self) -> None:
        source, dead_letters = self._declared()
        self.send(source, message("again", headers={DEAD_LETTER_HEADER: "the first", "tenant": "north"}))
        (delivery,) = self.take(source)

        self.driver.dead_letter(delivery, NOTE)

        assert self.arrived(dead_letters).headers == {DEAD_LETTER_HEADER: NOTE, "tenant": "north"}

    @pytest.mark.parametrize("headers", [{}, {f"header-{number}": "value" for number in range(10)}], ids=len)
    def test_the_largest_message_can_be_dead_lettered(self, headers: dict[str, str]) -> None:
        source, dead_letters = self._declared()
        smallest = message("x", event_type_name="OrderPlaced", headers=headers)
        spare = source.max_message_bytes - message_size(smallest)
        largest = smallest._replace(body="x" * (1 + spare))
        self.send(source, largest)
        (delivery,) = self.take(source)

        self.driver.dead_letter(delivery, NOTE)

        assert self.arrived(dead_letters) == largest

    def test_a_message_with_ten_headers_is_dead_lettered_with_the_note(self) -> None:
        source, dead_letters = self._declared()
        headers = {f"header-{number}": "value" for number in range(10)}
        self.send(source, message("rejected", event_type_name="OrderPlaced", headers=headers))
        (delivery,) = self.take(source)

        self.driver.dead_letter(delivery, NOTE)

        assert self.arrived(dead_letters).headers == {**headers, DEAD_LETTER_HEADER: NOTE}

    def test_a_dead_letter_keeps_its_group(self) -> None:
        self.needs("fifo")
        source, dead_letters = self._declared(fifo=True)
        self.send(source, fifo_message("first", "group"), fifo_message("second", "group"))
        deliveries = self.take(source, 2)

        for delivery in deliveries:
            self.driver.dead_letter(delivery, NOTE)
        self.acknowledge(*deliveries)

        dead = self.take(dead_letters, 2)
        assert bodies(dead) == ["first", "second"]
        assert {delivery.message.message_group_id for delivery in dead} == {"group"}

    def test_a_dead_letter_that_is_moved_back_and_fails_again_is_dead_lettered_again(self) -> None:
        self.needs("fifo")
        source, dead_letters = self._declared(fifo=True)
        self.send(source, fifo_message("poison"))

        for _ in range(3):
            (delivery,) = self.take(source)
            self.driver.dead_letter(delivery, NOTE)
            self.acknowledge(delivery)
            (dead,) = self.take(dead_letters)
            assert dead.message.body == "poison"
            self.send(source, dead.message)
            self.acknowledge(dead)

    def test_without_a_dead_letter_queue_dead_lettering_is_refused(self) -> None:
        queue = self.queue()
        self.send(queue, message("rejected"))
        (delivery,) = self.take(queue)

        with pytest.raises(ConfigurationError, match="dead_letter_queue"):
            self.driver.dead_letter(delivery, NOTE)

    def test_a_queue_knows_its_dead_letter_queue(self) -> None:
        source, dead_letters = self._queue_with_dead_letters(max_receive_count=4)

        for queue in (source, self.driver.get_queue(source.name)):
            assert queue.dead_letter_queue is not None
            assert queue.dead_letter_queue.name == dead_letters.name
            assert queue.max_receive_count == 4

    def test_redeclaring_without_naming_it_keeps_the_dead_letter_queue(self) -> None:
        source, dead_letters = self._queue_with_dead_letters(max_receive_count=1)

        again = self.queue(self.topic(), name=source.name)

        assert (again.dead_letter_queue, again.max_receive_count) == (
            source.dead_letter_queue,
            source.max_receive_count,
        )
        self.send(source, message("poison"))
        self._fail(source, times=1)
        self.expect_nothing(source)
        assert bodies(self.take(dead_letters)) == ["poison"]

    def test_redeclaring_with_another_maximum_changes_it(self) -> None:
        source, _ = self._queue_with_dead_letters(max_receive_count=1)

        again = self.queue(name=source.name, max_receive_count=7)

        assert again.max_receive_count == 7
        self.send(source, message("flaky"))
        self._fail(source, times=1)
        assert bodies(self.take(source)) == ["flaky"]

    def test_declaring_none_takes_the_dead_letter_queue_off(self) -> None:
        source, dead_letters = self._queue_with_dead_letters(max_receive_count=1)

        again = self.queue(name=source.name, dead_letter_queue=NO_DEAD_LETTER_QUEUE)

        assert (again.dead_letter_queue, again.max_receive_count) == (None, None)
        self.send(source, message("stubborn"))
        self._fail(source, times=2)
        assert bodies(self.take(source)) == ["stubborn"]
        self.expect_nothing(dead_letters)

    def test_a_maximum_without_a_dead_letter_queue_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="dead_letter_queue"):
            self.queue(max_receive_count=3)

        with pytest.raises(ConfigurationError, match="dead_letter_queue"):
            self.queue(dead_letter_queue=NO_DEAD_LETTER_QUEUE, max_receive_count=3)

    def test_a_dead_letter_queue_of_another_kind_is_refused(self) -> None:
        self.needs("dead_letter_queues")
        self.needs("fifo")
        standard, fifo = self.queue(), self.queue(fifo=True)

        with pytest.raises(ConfigurationError, match="FIFO"):
            self.queue(dead_letter_queue=fifo, max_receive_count=3)
        with pytest.raises(ConfigurationError, match="FIFO"):
            self.queue(fifo=True, dead_letter_queue=standard, max_receive_count=3)

    def _queue_with_dead_letters(self, max_receive_count: int, *, fifo: bool = False) -> tuple[Queue, Queue]:
        self.needs("dead_letter_queues")
        dead_letters = self.queue(fifo=fifo)
        source = self.queue(fifo=fifo, dead_letter_queue=dead_letters, max_receive_count=max_receive_count)
        return source, dead_letters

    def _declared(self, *, fifo: bool = False) -> tuple[Queue, Queue]:
        """Return a queue and its dead-letter queue, also if the broker moves no messages there by itself."""
        dead_letters = self.queue(fifo=fifo)
        return self.queue(fifo=fifo, dead_letter_queue=dead_letters), dead_letters

    def _fail(self, queue: Queue, *, times: int, count: int = 1) -> None:
        for _ in range(times):
            assert self.driver.defer(self.take(queue, count), 0) == []


class DeadLetterAdministration(DriverCase):
    """What ``DeadLetterAccess`` promises. Skipped for a driver that does not offer it."""

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

    def test_a_dead_letter_that_is_sent_back_keeps_its_group(self) -> None:
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
            pytest.skip(f"{type(self.driver).__name__} does not offer administration of dead letters")
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
