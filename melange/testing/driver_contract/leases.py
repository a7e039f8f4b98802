"""Visibility, acknowledging and deferring."""

from __future__ import annotations

from melange.errors import Failure, LeaseLostError
from melange.messages import Delivery
from melange.testing.driver_contract.case import DriverCase, bodies, message


class Leases(DriverCase):
    """A delivery belongs to one receiver until its deadline."""

    def test_a_delivered_message_is_invisible_to_others(self) -> None:
        queue = self.queue()
        self.send(queue, message())

        self.take(queue)

        self.expect_nothing(queue)

    def test_the_first_delivery_counts_one_and_tells_its_deadline(self) -> None:
        queue = self.queue()
        self.send(queue, message())
        before = self.driver.clock.monotonic()

        (delivery,) = self.take(queue, visibility_timeout_seconds=20)

        assert delivery.receive_count == 1
        assert before + 20 <= delivery.deadline <= self.driver.clock.monotonic() + 20

    def test_what_is_not_acknowledged_comes_back_after_its_deadline_and_counts_up(self) -> None:
        queue = self.queue()
        self.send(queue, message("again"))
        first = self._take_shortly()

        self.pass_time(self.driver, self.short_visibility_seconds)
        (second,) = self.take(first.queue)

        assert second.message == first.message
        assert second.receive_count == 2

    def test_what_is_acknowledged_never_comes_back(self) -> None:
        queue = self.queue()
        self.send(queue, message())
        self.acknowledge(self._take_shortly())

        self.pass_time(self.driver, self.short_visibility_seconds + 0.5)

        self.expect_nothing(queue)

    def test_acknowledging_leaves_the_neighbours(self) -> None:
        queue = self.queue()
        self.send(queue, message("one"), message("two"))
        one, two = self.take(queue, 2)

        self.acknowledge(one)
        assert self.driver.defer([two], 0) == []

        assert bodies(self.take(queue)) == [two.message.body]

    def test_acknowledging_twice_is_fine(self) -> None:
        queue = self.queue()
        self.send(queue, message())
        (delivery,) = self.take(queue)

        self.acknowledge(delivery)
        self.acknowledge(delivery)

    def test_deliveries_of_several_queues_are_acknowledged_together(self) -> None:
        first, second = self.queue(), self.queue()
        self.send(first, message())
        self.send(second, message())
        visibility = self.short_visibility_seconds + 1
        deliveries = [
            delivery
            for queue in (first, second)
            for delivery in self.take(queue, visibility_timeout_seconds=visibility)
        ]

        self.acknowledge(*deliveries)
        self.pass_time(self.driver, visibility)

        self.expect_nothing(first)
        self.expect_nothing(second)

    def test_more_than_ten_deliveries_are_acknowledged_together(self) -> None:
        queue = self.queue()
        self.send(queue, *[message(f"{number}") for number in range(12)])
        deliveries = self.take(queue, 12, visibility_timeout_seconds=self.short_visibility_seconds + 2)

        self.acknowledge(*deliveries)
        self.pass_time(self.driver, self.short_visibility_seconds + 2)

        self.expect_nothing(queue)

    def test_a_late_acknowledge_is_reported_and_leaves_the_message(self) -> None:
        queue = self.queue()
        self.send(queue, message("again"))
        late = self._take_shortly()
        self.pass_time(self.driver, self.short_visibility_seconds)

        failures = self.driver.acknowledge([late])

        _expect_lease_lost(failures, late)
        assert bodies(self.take(queue)) == ["again"]

    def test_a_late_defer_is_reported(self) -> None:
        queue = self.queue()
        self.send(queue, message("again"))
        late = self._take_shortly()
        self.pass_time(self.driver, self.short_visibility_seconds)

        failures = self.driver.defer([late], 60)

        _expect_lease_lost(failures, late)
        assert bodies(self.take(queue)) == ["again"]

    def test_part_of_a_batch_fails_and_the_rest_stands(self) -> None:
        queue = self.queue()
        self.send(queue, message("late"))
        late = self._take_shortly()
        self.send(queue, message("in time"))
        (in_time,) = self.take(queue, visibility_timeout_seconds=self.short_visibility_seconds + 2)
        self.pass_time(self.driver, self.short_visibility_seconds)

        failures = self.driver.acknowledge([late, in_time])

        _expect_lease_lost(failures, late)
        assert bodies(self.take(queue)) == ["late"]
        self.pass_time(self.driver, self.short_visibility_seconds + 2)
        self.expect_nothing(queue)

    def test_deferred_by_zero_is_visible_at_once_and_counts_up(self) -> None:
        queue = self.queue()
        self.send(queue, message("again"))
        (first,) = self.take(queue)

        assert self.driver.defer([first], 0) == []

        (second,) = self.take(queue)
        assert second.message == first.message
        assert second.receive_count == 2

    def test_deferred_by_some_seconds_is_visible_after_them_and_not_before(self) -> None:
        queue = self.queue()
        self.send(queue, message("again"))
        (delivery,) = self.take(queue)

        assert self.driver.defer([delivery], self.short_visibility_seconds) == []

        self.expect_nothing(queue)
        self.pass_time(self.driver, self.short_visibility_seconds)
        assert bodies(self.take(queue)) == ["again"]

    def test_deferring_pushes_the_deadline_out(self) -> None:
        queue = self.queue()
        self.send(queue, message())
        delivery = self._take_shortly()
        kept = delivery._replace(deadline=self.driver.clock.monotonic() + 30)

        assert self.driver.defer([delivery], 30) == []
        self.pass_time(self.driver, self.short_visibility_seconds + 0.5)

        self.expect_nothing(queue)
        self.acknowledge(kept)

    def test_the_broker_caps_a_deferral_at_what_it_still_allows(self) -> None:
        queue = self.queue()
        self.send(queue, message("long"))
        delivery = self._take_shortly()
        longest = self.driver.capabilities.max_visibility_seconds
        self.pass_time(self.driver, self.short_visibility_seconds / 2)

        assert self.driver.defer([delivery], longest) == []

        self.expect_nothing(queue)

    def test_an_equal_copy_of_a_delivery_settles_it(self) -> None:
        queue = self.queue()
        self.send(queue, message("deferred"), message("acknowledged"))
        one, two = self.take(queue, 2)

        assert self.driver.defer([one._replace()], 0) == []
        self.acknowledge(two._replace())

        assert bodies(self.take(queue)) == [one.message.body]
        self.expect_nothing(queue)

    def test_the_brokers_own_id_of_a_message_stays_when_it_comes_back(self) -> None:
        queue = self.queue()
        self.send(queue, message("one"), message("other"))
        one, other = self.take(queue, 2)
        self.acknowledge(other)
        assert self.driver.defer([one], 0) == []

        (again,) = self.take(queue)

        assert again.broker_message_id == one.broker_message_id
        assert one.broker_message_id != other.broker_message_id or not one.broker_message_id

    def test_a_sender_does_not_choose_the_brokers_own_id(self) -> None:
        queue = self.queue()
        same = message("same")
        self.send(queue, same)
        self.send(queue, same)

        first, second = self.take(queue, 2)

        assert first.message.message_id == second.message.message_id
        assert first.broker_message_id != second.broker_message_id or not first.broker_message_id

    def test_a_stale_handle_cannot_acknowledge_the_new_holders_delivery(self) -> None:
        self.needs_stale_handles_to_be_detected()
        stale, held = self._stale_and_held()

        failures = self.driver.acknowledge([stale])

        _expect_lease_lost(failures, stale)
        assert self.driver.defer([held], 0) == []
        assert bodies(self.take(held.queue)) == [held.message.body]

    def test_a_stale_handle_cannot_defer_the_new_holders_delivery(self) -> None:
        self.needs_stale_handles_to_be_detected()
        stale, held = self._stale_and_held()

        failures = self.driver.defer([stale], 0)

        _expect_lease_lost(failures, stale)
        self.expect_nothing(held.queue)
        self.acknowledge(held)

    def _take_shortly(self) -> Delivery:
        queue = self._queues[-1]
        (delivery,) = self.take(queue, visibility_timeout_seconds=self.short_visibility_seconds)
        return delivery

    def _stale_and_held(self) -> tuple[Delivery, Delivery]:
        queue = self.queue()
        self.send(queue, message())
        (stale,) = self.take(queue)
        assert self.driver.defer([stale], 0) == []
        (held,) = self.take(queue)
        return stale, held


def _expect_lease_lost(failures: list[Failure[Delivery]], *deliveries: Delivery) -> None:
    assert [failure.item for failure in failures] == list(deliveries)
    assert all(isinstance(failure.error, LeaseLostError) for failure in failures)
