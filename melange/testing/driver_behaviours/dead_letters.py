"""Dead letters: where messages go that were received too often, or rejected."""

from __future__ import annotations

import pytest

from melange.drivers.base import NO_DEAD_LETTER_QUEUE
from melange.errors import ConfigurationError
from melange.messages import Message, Queue
from melange.testing.driver_behaviours.case import DriverCase, bodies, fifo_message, message


class DeadLetters(DriverCase):
    """The broker sets aside what was received too often; whoever rejects does so at once."""

    def test_a_message_received_too_often_is_set_aside_as_it_was(self) -> None:
        source, dead_letters = self._queue_with_dead_letters(max_receive_count=2)
        poison = message("poison", event_type_name="OrderPlaced", headers={"tenant": "north"})
        self.send(source, poison)

        self._fail(source, times=2)

        self.expect_nothing(source)
        assert self._arrived(dead_letters) == poison

    def test_a_message_received_less_often_is_not_set_aside(self) -> None:
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

    def test_a_rejected_message_is_set_aside_at_once(self) -> None:
        source, dead_letters = self._queue_with_dead_letters(max_receive_count=10)
        self.send(source, message("rejected"))
        (delivery,) = self.take(source)
        assert delivery.queue.dead_letter_queue is not None

        self.send(delivery.queue.dead_letter_queue, delivery.message)
        self.acknowledge(delivery)

        assert bodies(self.take(dead_letters)) == ["rejected"]
        self.expect_nothing(source)

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

    def _fail(self, queue: Queue, *, times: int, count: int = 1) -> None:
        for _ in range(times):
            assert self.driver.defer(self.take(queue, count), 0) == []

    def _arrived(self, queue: Queue) -> Message:
        (delivery,) = self.take(queue)
        return delivery.message
