"""Which messages are taken for the same one, and who can decide that."""

from __future__ import annotations

import random
import uuid

import pytest

from consumer_options import key_of
from melange import (
    Deduplication,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    MemoryDeduplicationStore,
    PublishError,
    QueueOptions,
)
from melange.drivers.memory import InMemoryDriver
from melange.errors import DriverConnectionError, Failure
from melange.messages import Message, new_uuid

EVENT = {"event_type_name": "ProductAdded", "name": "Coolers"}


@pytest.fixture
def events():
    """Return what the listener of ``consumer`` has received."""
    return []


@pytest.fixture
def consumer(make_consumer, events):
    consumer = make_consumer()
    consumer.listener(name="note")(events.append)
    return consumer


# --- brokers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True], ids=["default stores", "one store"])
def test_two_brokers_in_one_process_do_not_share_their_marks(shared):
    options = {"deduplication": MemoryDeduplicationStore()} if shared else {}
    received = []

    for number in range(2):
        driver = InMemoryDriver()
        consumer = ExchangeMessageConsumer(
            "stock", "products", driver=driver, queue=QueueOptions(wait_seconds=0), **options
        )
        consumer.listener(name="note")(lambda event, number=number: received.append(number))
        ExchangeMessagePublisher("products", driver).publish(EVENT, message_id="order-1")
        assert consumer.consume_event() == 1

    assert received == [0, 1]


def test_consumers_on_one_driver_share_the_default_store(driver):
    received = []
    for _ in range(2):
        consumer = ExchangeMessageConsumer(
            "stock", "products", driver=driver, queue=QueueOptions(wait_seconds=0), deduplication=None
        )
        consumer.listener(name="note")(received.append)
        ExchangeMessagePublisher("products", driver).publish(EVENT, message_id="order-1")
        consumer.consume_event()

    assert len(received) == 1
    assert driver.measure_queue(consumer.queue).visible == 0


def test_the_default_store_lives_in_the_time_of_its_driver(driver, clock, publisher, make_consumer):
    consumer = make_consumer(deduplication=None)
    received = []
    consumer.listener(name="note")(received.append)

    for _ in range(2):
        publisher.publish(EVENT, message_id="order-1")
        consumer.consume_event()
        clock.advance(19 * 24 * 3_600)  # longer than marks are kept

    assert len(received) == 2


@pytest.mark.parametrize("deduplication", [None, Deduplication()], ids=["None", "Deduplication()"])
def test_no_argument_by_accident_turns_deduplication_off(driver, publisher, make_consumer, deduplication):
    consumer = make_consumer(deduplication=deduplication)
    received = []
    consumer.listener(name="note")(received.append)

    for _ in range(2):
        publisher.publish(EVENT, message_id="order-1")
        consumer.consume_event()

    assert len(received) == 1


def test_none_means_the_default_dead_letter_queue(make_consumer):
    assert make_consumer(dead_letter_queue_name=None).queue.dead_letter_queue.name == "stock-dlq"


# --- contents --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        Message("order-1", '{"name": "Heaters"}', "ProductAdded", {"tenant": "a"}),
        Message("order-1", '{"name": "Coolers"}', "ProductRemoved", {"tenant": "a"}),
        Message("order-1", '{"name": "Coolers"}', "ProductAdded", {"tenant": "b"}),
        Message("order-1", '{"name": "Coolers"}', "ProductAdded", {"tenant": "a", "priority": "1"}),
        Message("order-1", '{"name": "Coolers"}', "ProductAdded"),
    ],
    ids=["body", "type", "header", "another header", "no headers"],
)
def test_another_content_under_a_used_id_is_another_message(driver, consumer, events, dead_letters, other):
    first = Message("order-1", '{"name": "Coolers"}', "ProductAdded", {"tenant": "a"})

    for message in (first, other, first, other):
        assert driver.send(consumer.queue, [message]) == []
        consumer.consume_event()

    assert len(events) == 2
    assert dead_letters() == []
    assert driver.measure_queue(consumer.queue).visible == 0


@pytest.mark.parametrize(
    "header", ["traceparent", "tracestate", "Baggage", "X-B3-TraceId", "AWSTraceHeader", "x-datadog-trace-id"]
)
def test_headers_for_tracing_may_differ_when_a_message_is_sent_again(driver, consumer, events, header):
    for number in range(2):
        driver.send(consumer.queue, [Message("order-1", "{}", "ProductAdded", {header: str(number)})])
        consumer.consume_event()

    assert len(events) == 1


def test_an_id_that_is_occupied_by_another_content_keeps_nothing_waiting(
    driver, store, consumer, events, publisher
):
    junk = {**EVENT, "name": "junk"}
    store.claim(key_of(consumer.queue, "note", "order-1", junk), "a slow listener", 3_600)

    publisher.publish(EVENT, message_id="order-1")
    consumer.consume_event()

    assert events == [EVENT]


# --- the broker's identity -------------------------------------------------------------------------


def test_with_the_brokers_identity_no_sender_can_occupy_an_id(driver, store, make_consumer, publisher):
    consumer = make_consumer(deduplication=Deduplication(store, identity="broker"))
    received = []
    consumer.listener(name="note")(received.append)

    for _ in range(2):
        publisher.publish(EVENT, message_id="order-1")
        consumer.consume_event()

    assert len(received) == 2


def test_with_the_brokers_identity_a_redelivery_is_recognised(driver, clock, store, make_consumer, publisher):
    consumer = make_consumer(deduplication=Deduplication(store, identity="broker"))
    attempts: list[tuple[str, int]] = []

    @consumer.listener(name="quick")
    def quick(event, attempt):
        attempts.append(("quick", attempt))

    @consumer.listener(name="slow")
    def slow(event, attempt):
        attempts.append(("slow", attempt))
        if attempt == 1:
            raise ConnectionError("unavailable")

    publisher.publish(EVENT, message_id="order-1")
    for _ in range(2):
        consumer.consume_event()
        clock.advance(10)

    assert attempts == [("quick", 1), ("slow", 1), ("slow", 2)]


# --- ids that cannot be guessed --------------------------------------------------------------------


def test_ids_do_not_come_from_the_random_module():
    state = random.getstate()
    try:
        made = set()
        for _ in range(2):
            random.seed(42)
            before = random.getstate()
            made.update(new_uuid() for _ in range(500))  # more than are read ahead at once
            assert random.getstate() == before
    finally:
        random.setstate(state)

    assert len(made) == 1_000


def test_ids_are_version_4_uuids():
    made = [new_uuid() for _ in range(300)]

    assert [str(uuid.UUID(one)) for one in made] == made
    assert {uuid.UUID(one).version for one in made} == {4}


# --- failures are matched by id --------------------------------------------------------------------


class EqualAndNotIdentical(InMemoryDriver):
    """Accepts the first message of a batch, and reports the others with copies of what it was given."""

    def publish(self, topic, messages):
        return [
            *super().publish(topic, messages[:1]),
            *(Failure(Message(*message), DriverConnectionError("throttled")) for message in messages[1:]),
        ]


def test_no_id_is_reported_as_both_accepted_and_failed():
    publisher = ExchangeMessagePublisher("products", EqualAndNotIdentical())

    with pytest.raises(PublishError) as raised:
        publisher.publish_batch(
            [{**EVENT, "name": name} for name in "abc"], message_id=lambda event: event["name"]
        )

    assert raised.value.succeeded == ["a"]
    assert [failure.item.message_id for failure in raised.value.failures] == ["b", "c"]
