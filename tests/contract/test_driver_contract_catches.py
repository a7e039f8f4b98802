"""Negative controls: drivers that are broken on purpose, and the test of the contract that catches each."""

import itertools
from dataclasses import replace

import pytest

from melange.drivers.base import NO_DEAD_LETTER_QUEUE
from melange.drivers.dead_letters import dead_letter_of
from melange.drivers.memory import InMemoryDriver
from melange.errors import DriverError, Failure, InvalidMessageError, MelangeError
from melange.messages import DEAD_LETTER_HEADER
from melange.testing import DriverContract, ManualClock


class KeepsOneCopyPerTopic(InMemoryDriver):
    def __init__(self, **options):
        super().__init__(**options)
        self._bound = set()

    def declare_queue(self, name, *topics, **options):
        unbound = [topic for topic in topics if topic not in self._bound]
        self._bound.update(topics)
        return super().declare_queue(name, *unbound, **options)


class DeliversTwice(InMemoryDriver):
    def publish(self, topic, messages):
        return super().publish(topic, [message for message in messages for _ in range(2)])


class LosesEveryHundredth(InMemoryDriver):
    def __init__(self, **options):
        super().__init__(**options)
        self._numbers = itertools.count(1)

    def publish(self, topic, messages):
        return super().publish(topic, [message for message in messages if next(self._numbers) % 100])


class DropsHeaders(InMemoryDriver):
    def publish(self, topic, messages):
        return super().publish(topic, [message._replace(headers={}) for message in messages])


class MixesTopicsUp(InMemoryDriver):
    def publish(self, topic, messages):
        return [self.send(queue.queue, messages) for queue in self._broker.queues.values()] and []


class ForgetsTheBatchAfterTen(InMemoryDriver):
    def send(self, queue, messages, **options):
        return super().send(queue, messages[:10], **options)


class IgnoresTheLimit(InMemoryDriver):
    def receive(self, queue, limit, wait_seconds, **options):
        return super().receive(queue, max(limit, 10), wait_seconds, **options)


class NeverHides(InMemoryDriver):
    def receive(self, queue, limit, wait_seconds, **options):
        return super().receive(queue, limit, wait_seconds, visibility_timeout_seconds=0)


class HidesForEver(InMemoryDriver):
    def receive(self, queue, limit, wait_seconds, **options):
        return super().receive(queue, limit, wait_seconds, visibility_timeout_seconds=43_200)


class CountsNoReceives(InMemoryDriver):
    def receive(self, *arguments, **options):
        return [delivery._replace(receive_count=1) for delivery in super().receive(*arguments, **options)]


class NeverWaits(InMemoryDriver):
    def receive(self, queue, limit, wait_seconds, **options):
        return super().receive(queue, limit, 0, **options)


class ReportsNoFailures(InMemoryDriver):
    def acknowledge(self, deliveries):
        super().acknowledge(deliveries)
        return []

    def defer(self, deliveries, seconds):
        super().defer(deliveries, seconds)
        return []


class FailsTheWholeBatch(InMemoryDriver):
    def acknowledge(self, deliveries):
        late = [delivery for delivery in deliveries if delivery.deadline <= self.clock.monotonic()]
        return super().acknowledge(late or deliveries)


class AcknowledgesOneQueue(InMemoryDriver):
    def acknowledge(self, deliveries):
        return super().acknowledge([one for one in deliveries if one.queue == deliveries[0].queue])


class AcknowledgesTen(InMemoryDriver):
    def acknowledge(self, deliveries):
        return super().acknowledge(deliveries[:10])


class NeverAcknowledges(InMemoryDriver):
    def acknowledge(self, deliveries):
        return []


class AcceptsOldHandles(InMemoryDriver):
    """Knows deliveries by their message, so that any old handle speaks for the present holder."""

    def __init__(self, **options):
        super().__init__(**options)
        self._present = {}

    def receive(self, *arguments, **options):
        deliveries = super().receive(*arguments, **options)
        self._present.update({delivery.message.message_id: delivery for delivery in deliveries})
        return deliveries

    def acknowledge(self, deliveries):
        return super().acknowledge([self._present[delivery.message.message_id] for delivery in deliveries])

    def defer(self, deliveries, seconds):
        return super().defer([self._present[delivery.message.message_id] for delivery in deliveries], seconds)


class DefersAtOnce(InMemoryDriver):
    def defer(self, deliveries, seconds):
        return super().defer(deliveries, 0)


class IgnoresDelays(InMemoryDriver):
    def send(self, queue, messages, *, delay_seconds=0):
        return super().send(queue, messages)


class HasNoDeadLetters(InMemoryDriver):
    def declare_queue(self, name, *topics, dead_letter_queue=None, max_receive_count=None, **options):
        return super().declare_queue(name, *topics, **options)


class ForgetsDeadLetterQueues(InMemoryDriver):
    def declare_queue(self, name, *topics, dead_letter_queue=NO_DEAD_LETTER_QUEUE, **options):
        return super().declare_queue(name, *topics, dead_letter_queue=dead_letter_queue, **options)


class ReversesGroups(InMemoryDriver):
    def receive(self, *arguments, **options):
        return super().receive(*arguments, **options)[::-1]


class KnowsNoGroups(InMemoryDriver):
    """Each message is a group of its own: nothing blocks anything."""

    def send(self, queue, messages, **options):
        alone = [message._replace(message_group_id=message.message_id) for message in messages]
        return super().send(queue, alone if queue.is_fifo else messages, **options)

    def publish(self, topic, messages):
        alone = [message._replace(message_group_id=message.message_id) for message in messages]
        return super().publish(topic, alone if topic.is_fifo else messages)


class NeverDeduplicates(InMemoryDriver):
    def send(self, queue, messages, **options):
        unique = [message._replace(message_deduplication_id=message.message_id) for message in messages]
        return super().send(queue, unique if queue.is_fifo else messages, **options)


class KnowsNoFilters(InMemoryDriver):
    def declare_queue(self, name, *topics, event_filter=None, **options):
        return super().declare_queue(name, *topics, **options)


class OneFilterPerTopic(InMemoryDriver):
    def declare_queue(self, name, *topics, event_filter=None, **options):
        if event_filter is not None:
            for other in list(self._broker.queues):
                super().declare_queue(other.rpartition(":")[2], *topics, event_filter=event_filter)
        return super().declare_queue(name, *topics, event_filter=event_filter, **options)


class OneTopicPerQueue(InMemoryDriver):
    def declare_queue(self, name, *topics, **options):
        for topic in self._broker.topics.values():
            if topics:
                for queue in list(topic.bindings):
                    if queue.queue.name == name:
                        topic.unbind(queue)
        return super().declare_queue(name, *topics, **options)


class CreatesWhatItLooksUp(InMemoryDriver):
    def get_queue(self, name):
        return self.declare_queue(name)


class SendsTheValidPart(InMemoryDriver):
    def send(self, queue, messages, **options):
        for message in messages:
            super().send(queue, [message], **options)
        return []


class CountsCharacters(InMemoryDriver):
    def send(self, queue, messages, **options):
        try:
            return super().send(queue, messages, **options)
        except InvalidMessageError:
            return []


class KnowsDeliveriesByIdentity(InMemoryDriver):
    def __init__(self, **options):
        super().__init__(**options)
        self._handed_out = []

    def receive(self, *arguments, **options):
        deliveries = super().receive(*arguments, **options)
        self._handed_out += deliveries
        return deliveries

    def acknowledge(self, deliveries):
        return super().acknowledge(
            [one for one in deliveries if any(one is known for known in self._handed_out)]
        )

    def defer(self, deliveries, seconds):
        known = [one for one in deliveries if any(one is known for known in self._handed_out)]
        return super().defer(known, seconds)


class ReportsALongDeferral(InMemoryDriver):
    def defer(self, deliveries, seconds):
        failures = super().defer(deliveries, seconds)
        if seconds + self.clock.monotonic() > 43_200:
            return [Failure(delivery, DriverError("too long")) for delivery in deliveries]
        return failures


class TakesTheSendersIdForItsOwn(InMemoryDriver):
    def receive(self, *arguments, **options):
        deliveries = super().receive(*arguments, **options)
        return [one._replace(broker_message_id=one.message.message_id) for one in deliveries]


class GivesEachReceiptAnIdOfItsOwn(InMemoryDriver):
    def receive(self, *arguments, **options):
        deliveries = super().receive(*arguments, **options)
        return [one._replace(broker_message_id=one.receipt_handle) for one in deliveries]


class CountsAnewInDeadLetterQueues(InMemoryDriver):
    def receive(self, *arguments, **options):
        deliveries = super().receive(*arguments, **options)
        return [one._replace(receive_count=max(1, one.receive_count - 2)) for one in deliveries]


class CountsAllReceivesAgainstEachQueue(InMemoryDriver):
    def receive(self, *arguments, **options):
        deliveries = super().receive(*arguments, **options)
        for delivery in deliveries:
            queue = self._broker.queues[delivery.queue.address]
            queue.stored.copies_by_number[int(delivery.receipt_handle.partition("-")[0])].carried = 0
        return deliveries


class KeepsFiltersForEver(InMemoryDriver):
    def declare_queue(self, name, *topics, event_filter=None, **options):
        if event_filter is not None and not event_filter.event_type_names:
            event_filter = None
        return super().declare_queue(name, *topics, event_filter=event_filter, **options)


class AddressesByName(InMemoryDriver):
    def declare_topic(self, name, **options):
        return replace(super().declare_topic(name, **options), address="the same")

    def declare_queue(self, name, *topics, **options):
        return replace(super().declare_queue(name, *topics, **options), address="the same")


class AcknowledgesDeadLetters(InMemoryDriver):
    def dead_letter(self, delivery, note):
        super().dead_letter(delivery, note)
        self.acknowledge([delivery])


class LosesTheNote(InMemoryDriver):
    def dead_letter(self, delivery, note):
        self.send(
            delivery.queue.dead_letter_queue, [dead_letter_of(delivery, is_fifo=delivery.queue.is_fifo)]
        )


class InsistsOnTheNote(InMemoryDriver):
    def dead_letter(self, delivery, note):
        message = dead_letter_of(delivery, is_fifo=delivery.queue.is_fifo)
        headers = {**message.headers, DEAD_LETTER_HEADER: note}
        self.send(delivery.queue.dead_letter_queue, [message._replace(headers=headers)])


class SendsDeadLettersUnderTheirOldId(InMemoryDriver):
    def dead_letter(self, delivery, note):
        self.send(delivery.queue.dead_letter_queue, [delivery.message])


class GroupsDeadLettersByMessage(InMemoryDriver):
    def dead_letter(self, delivery, note):
        ungrouped = delivery.message._replace(message_group_id=delivery.message.message_id)
        super().dead_letter(delivery._replace(message=ungrouped), note)


class BlocksAGroupUntilAllOfItIsBack(InMemoryDriver):
    def receive(self, queue, *arguments, **options):
        inside = self._broker.queues[queue.address]
        if queue.is_fifo and inside.stored.measure(self.clock.monotonic()).in_flight:
            return []
        return super().receive(queue, *arguments, **options)


class ListsNoFilters(InMemoryDriver):
    def list_bindings(self, queue):
        return [replace(binding, event_filter=None) for binding in super().list_bindings(queue)]


class StaysOpen(InMemoryDriver):
    def close(self):
        pass


CAUGHT = [
    (KeepsOneCopyPerTopic, "test_each_queue_gets_its_own_copy"),
    (DeliversTwice, "test_eleven_published_messages_arrive"),
    (DeliversTwice, "test_many_messages_between_many_threads_arrive_once_each"),
    (LosesEveryHundredth, "test_many_messages_between_many_threads_arrive_once_each"),
    (DropsHeaders, "test_a_published_message_arrives_as_it_was"),
    (DropsHeaders, "test_more_than_ten_headers_and_empty_ones_arrive"),
    (MixesTopicsUp, "test_topics_are_isolated"),
    (ForgetsTheBatchAfterTen, "test_eleven_sent_messages_arrive"),
    (IgnoresTheLimit, "test_a_receive_returns_no_more_than_its_limit"),
    (NeverHides, "test_a_delivered_message_is_invisible_to_others"),
    (HidesForEver, "test_what_is_not_acknowledged_comes_back_after_its_deadline_and_counts_up"),
    (CountsNoReceives, "test_what_is_not_acknowledged_comes_back_after_its_deadline_and_counts_up"),
    (NeverWaits, "test_a_waiting_receive_returns_when_something_arrives"),
    (NeverWaits, "test_a_waiting_receive_of_an_empty_queue_ends_after_its_time_and_not_before"),
    (ReportsNoFailures, "test_a_late_acknowledge_is_reported_and_leaves_the_message"),
    (ReportsNoFailures, "test_a_late_defer_is_reported"),
    (FailsTheWholeBatch, "test_part_of_a_batch_fails_and_the_rest_stands"),
    (AcknowledgesOneQueue, "test_deliveries_of_several_queues_are_acknowledged_together"),
    (AcknowledgesTen, "test_more_than_ten_deliveries_are_acknowledged_together"),
    (NeverAcknowledges, "test_what_is_acknowledged_never_comes_back"),
    (AcceptsOldHandles, "test_a_stale_handle_cannot_acknowledge_the_new_holders_delivery"),
    (AcceptsOldHandles, "test_a_stale_handle_cannot_defer_the_new_holders_delivery"),
    (DefersAtOnce, "test_deferred_by_some_seconds_is_visible_after_them_and_not_before"),
    (DefersAtOnce, "test_deferring_pushes_the_deadline_out"),
    (IgnoresDelays, "test_a_delayed_message_is_visible_after_its_delay_and_not_before"),
    (HasNoDeadLetters, "test_a_message_received_too_often_is_dead_lettered_as_it_was"),
    (ForgetsDeadLetterQueues, "test_redeclaring_without_naming_it_keeps_the_dead_letter_queue"),
    (ReversesGroups, "test_several_messages_of_a_group_received_at_once_are_in_order"),
    (KnowsNoGroups, "test_a_group_in_flight_blocks_itself_and_no_other"),
    (NeverDeduplicates, "test_a_deduplication_id_outlives_the_message"),
    (KnowsNoFilters, "test_a_filter_lets_its_type_pass_and_nothing_else"),
    (OneFilterPerTopic, "test_a_second_queues_filter_does_not_change_the_firsts"),
    (OneTopicPerQueue, "test_a_second_topics_binding_keeps_the_firsts"),
    (CreatesWhatItLooksUp, "test_a_queue_that_is_not_there_is_not_found_and_not_created"),
    (SendsTheValidPart, "test_the_largest_message_of_a_queue_passes_and_one_byte_more_does_not"),
    (CountsCharacters, "test_headers_count_towards_the_size"),
    (KnowsDeliveriesByIdentity, "test_an_equal_copy_of_a_delivery_settles_it"),
    (ReportsALongDeferral, "test_the_broker_caps_a_deferral_at_what_it_still_allows"),
    (TakesTheSendersIdForItsOwn, "test_a_sender_does_not_choose_the_brokers_own_id"),
    (GivesEachReceiptAnIdOfItsOwn, "test_the_brokers_own_id_of_a_message_stays_when_it_comes_back"),
    (CountsAnewInDeadLetterQueues, "test_the_receive_count_goes_on_in_the_dead_letter_queue"),
    (
        CountsAllReceivesAgainstEachQueue,
        "test_a_dead_letter_queue_with_one_of_its_own_counts_only_its_receives",
    ),
    (KeepsFiltersForEver, "test_a_filter_that_names_nothing_takes_the_filter_off"),
    (AddressesByName, "test_each_topic_and_queue_has_an_address_of_its_own"),
    (AcknowledgesDeadLetters, "test_dead_lettering_acknowledges_nothing"),
    (LosesTheNote, "test_a_rejected_message_is_dead_lettered_at_once_as_it_was_with_the_note"),
    (LosesTheNote, "test_a_message_with_ten_headers_is_dead_lettered_with_the_note"),
    (SendsDeadLettersUnderTheirOldId, "test_the_note_of_an_earlier_dead_letter_is_replaced"),
    (
        SendsDeadLettersUnderTheirOldId,
        "test_a_dead_letter_that_is_moved_back_and_fails_again_is_dead_lettered_again",
    ),
    (InsistsOnTheNote, "test_the_largest_message_can_be_dead_lettered", {}),
    (
        BlocksAGroupUntilAllOfItIsBack,
        "test_of_a_group_the_messages_before_its_first_invisible_one_are_received",
        1,
    ),
    (GroupsDeadLettersByMessage, "test_a_dead_letter_keeps_its_group"),
    (
        BlocksAGroupUntilAllOfItIsBack,
        "test_the_head_of_a_group_is_received_again_while_its_followers_are_in_flight",
    ),
    (ListsNoFilters, "test_the_bindings_of_a_queue_are_listed_with_their_filters"),
    (StaysOpen, "test_everything_after_close_is_a_clear_error"),
]


@pytest.mark.parametrize(
    ("broken_driver", "test_name", "arguments"),
    [pytest.param(case[0], case[1], case[2:], id="-".join((case[0].__name__, case[1]))) for case in CAUGHT],
)
def test_the_contract_catches_a_broken_driver(broken_driver, test_name, arguments):
    suite = _suite(broken_driver)

    try:
        with pytest.raises((AssertionError, pytest.fail.Exception, MelangeError)):
            getattr(suite, test_name)(*arguments)
    finally:
        suite.teardown_method()


@pytest.mark.parametrize(
    ("test_name", "arguments"),
    [
        pytest.param(name, arguments, id=name)
        for name, *arguments in {case[1]: case[1:] for case in CAUGHT}.values()
    ],
)
def test_the_contract_is_content_with_the_sound_driver_under_the_same_conditions(test_name, arguments):
    suite = _suite(InMemoryDriver)

    getattr(suite, test_name)(*arguments)
    suite.teardown_method()


def _suite(driver_class):
    class Suite(DriverContract):
        patience_seconds = 0.2

        def make_driver(self):
            return driver_class(clock=ManualClock())

        def pass_time(self, driver, seconds):
            driver.clock.advance(seconds)

    return Suite()
