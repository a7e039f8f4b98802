"""What becomes of a message, for everything that listeners and messages can do."""

import json
import logging

import pytest

from consumer_options import key_of
from melange import (
    NO_DEAD_LETTER_QUEUE,
    NO_DEDUPLICATION,
    Backoff,
    ConfigurationError,
    DeduplicationError,
    DriverConnectionError,
    ExchangeListener,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    LeaseLostError,
    MemoryDeduplicationStore,
    QueueOptions,
    Reject,
    Retry,
)
from melange.deduplication.base import Claimed
from melange.drivers.memory import InMemoryDriver
from melange.errors import Failure
from melange.messages import DEAD_LETTER_HEADER, Message
from melange.testing.clock import ManualClock

EVENT = {"event_type_name": "ProductAdded", "product_id": 1}


class Recorder(ExchangeListener):
    """Notes each event; raises what it is told, one after the other."""

    def __init__(self, name="Recorder", *errors, listens_to=None):
        self.name = name
        self.errors = list(errors)
        self.types = listens_to
        self.events = []

    def process(self, event):
        self.events.append(event)
        if self.errors:
            error = self.errors.pop(0)
            if error:
                raise error

    def listens_to(self):
        return self.types


def depth(driver, queue_name="stock"):
    return driver.measure_queue(driver.get_queue(queue_name))


def is_empty(driver, queue_name="stock"):
    measured = depth(driver, queue_name)
    return measured.visible + measured.in_flight + measured.delayed == 0


def reason_of(message):
    return json.loads(message.headers[DEAD_LETTER_HEADER])


# --- success ---------------------------------------------------------------------------------------


def test_what_every_listener_has_processed_is_acknowledged(driver, make_consumer, publisher):
    consumer = make_consumer()
    first, second = Recorder("first"), Recorder("second")
    consumer.subscribe(first)
    consumer.subscribe(second)
    publisher.publish(EVENT)

    settled = consumer.consume_event()

    assert settled == 1
    assert first.events == second.events == [EVENT]
    assert is_empty(driver)


def test_a_poll_takes_a_batch_of_ten(driver, make_consumer, publisher):
    consumer = make_consumer()
    recorder = Recorder()
    consumer.subscribe(recorder)
    publisher.publish_batch([{**EVENT, "product_id": number} for number in range(12)])

    assert consumer.consume_event() == 10
    assert consumer.consume_event() == 2
    assert consumer.consume_event() == 0

    assert sorted(event["product_id"] for event in recorder.events) == list(range(12))
    assert is_empty(driver)


def test_a_message_that_no_listener_accepts_is_acknowledged(driver, make_consumer, publisher):
    consumer = make_consumer()
    recorder = Recorder(listens_to=["SomethingElse"])
    consumer.subscribe(recorder)
    publisher.publish(EVENT)

    assert consumer.consume_event() == 1

    assert recorder.events == []
    assert is_empty(driver)


def test_a_message_that_no_listener_accepts_is_set_aside_on_request(
    driver, make_consumer, publisher, dead_letters
):
    consumer = make_consumer(on_unhandled="reject")
    consumer.subscribe(Recorder(listens_to=["SomethingElse"]))
    publisher.publish(EVENT)

    consumer.consume_event()

    assert is_empty(driver)
    [dead] = dead_letters()
    assert reason_of(dead)["reason"] == "no listener accepts 'ProductAdded'"


def test_without_a_listener_nothing_is_consumed(driver, make_consumer, publisher):
    consumer = make_consumer()
    publisher.publish(EVENT)

    with pytest.raises(Exception, match="subscribe a listener first"):
        consumer.consume_event()

    assert depth(driver).visible == 1


@pytest.mark.parametrize("wait_seconds", [-1, 21, 0.5, "20", True])
def test_a_wait_that_no_broker_knows_is_refused(make_consumer, wait_seconds):
    consumer = make_consumer()
    consumer.subscribe(Recorder())

    with pytest.raises(
        ConfigurationError, match="wait_seconds must be a whole number of seconds from 0 to 20"
    ):
        consumer.consume_event(wait_seconds=wait_seconds)


# --- failures --------------------------------------------------------------------------------------


def test_a_failed_message_comes_back_after_the_backoff(driver, clock, make_consumer, publisher):
    consumer = make_consumer()
    recorder = Recorder("Recorder", ValueError("broken"))
    consumer.subscribe(recorder)
    publisher.publish(EVENT)

    assert consumer.consume_event() == 1
    assert consumer.consume_event() == 0
    clock.advance(9)
    assert consumer.consume_event() == 0
    clock.advance(1)
    assert consumer.consume_event() == 1

    assert recorder.events == [EVENT, EVENT]
    assert is_empty(driver)


def test_the_default_backoff_never_brings_a_message_back_at_once(driver, make_consumer, publisher):
    consumer = make_consumer(backoff=Backoff())
    recorder = Recorder("Recorder", *[ValueError("broken")] * 4)
    consumer.subscribe(recorder)
    publisher.publish(EVENT)

    consumer.consume_event()

    assert consumer.consume_event() == 0
    assert depth(driver).in_flight == 1


def test_the_backoff_is_asked_with_the_attempts_made(clock, make_consumer, publisher):
    asked = []
    consumer = make_consumer(backoff=lambda attempts: asked.append(attempts) or 1)
    consumer.subscribe(Recorder("Recorder", ValueError(), ValueError(), ValueError()))
    publisher.publish(EVENT)

    for _ in range(4):
        consumer.consume_event()
        clock.advance(1)

    assert asked == [1, 2, 3]


def test_a_failing_listener_does_not_stop_the_others(make_consumer, publisher):
    consumer = make_consumer()
    failing, other = Recorder("failing", ValueError()), Recorder("other")
    consumer.subscribe(failing)
    consumer.subscribe(other)
    publisher.publish(EVENT)

    consumer.consume_event()

    assert other.events == [EVENT]


def test_a_retry_runs_only_the_listeners_that_have_not_finished(driver, clock, make_consumer, publisher):
    consumer = make_consumer()
    failing, other = Recorder("failing", ValueError(), ValueError()), Recorder("other")
    consumer.subscribe(failing)
    consumer.subscribe(other)
    publisher.publish(EVENT)

    for _ in range(3):
        consumer.consume_event()
        clock.advance(10)

    assert len(failing.events) == 3
    assert len(other.events) == 1
    assert is_empty(driver)


def test_a_failure_leaves_its_batch_neighbours_alone(driver, make_consumer, publisher):
    consumer = make_consumer()

    class FailsOnThree(ExchangeListener):
        def process(self, event):
            if event["product_id"] == 3:
                raise ValueError

    consumer.subscribe(FailsOnThree())
    publisher.publish_batch([{**EVENT, "product_id": number} for number in range(10)])

    assert consumer.consume_event() == 10

    assert depth(driver).in_flight == 1
    assert depth(driver).visible == 0


def test_the_last_attempt_sets_the_message_aside_with_the_reason(
    driver, clock, make_consumer, publisher, dead_letters
):
    consumer = make_consumer(max_attempts=3)
    recorder = Recorder("StockListener", *[ValueError("out of stock")] * 5)
    consumer.subscribe(recorder)
    message_id = publisher.publish(EVENT, headers={"correlation-id": "c-1"})

    for _ in range(4):
        consumer.consume_event()
        clock.advance(10)

    assert len(recorder.events) == 3
    assert is_empty(driver)
    [dead] = dead_letters()
    assert dead.message_id == message_id
    assert json.loads(dead.body) == EVENT
    assert dead.event_type_name == "ProductAdded"
    assert dead.headers["correlation-id"] == "c-1"
    reason = reason_of(dead)
    assert reason["reason"] == "attempt 3 of 3 failed: ValueError: out of stock"
    assert reason["listener"] == "StockListener"
    assert reason["queue"] == "stock"
    assert reason["attempts"] == 3
    assert reason["rejected_at"]


def test_a_dead_letter_moved_back_runs_only_what_had_failed(driver, make_consumer, publisher, dead_letters):
    consumer = make_consumer(max_attempts=1)
    failing, other = Recorder("failing", ValueError()), Recorder("other")
    consumer.subscribe(failing)
    consumer.subscribe(other)
    publisher.publish(EVENT)
    consumer.consume_event()

    driver.send(consumer.queue, dead_letters())
    consumer.consume_event()

    assert len(failing.events) == 2
    assert len(other.events) == 1
    assert is_empty(driver)


def test_a_reason_of_any_size_and_content_finds_a_place(driver, make_consumer, publisher, dead_letters):
    consumer = make_consumer(max_attempts=1)
    consumer.subscribe(Recorder("Recorder", ValueError("\x00\ud800\n" + "x" * 5_000_000)))
    publisher.publish(EVENT)

    consumer.consume_event()

    assert is_empty(driver)
    [dead] = dead_letters()
    assert len(reason_of(dead)["reason"]) <= 1_000


def test_a_message_of_full_size_is_set_aside_without_the_reason(driver, make_consumer, dead_letters):
    consumer = make_consumer(max_attempts=1)
    consumer.subscribe(Recorder("Recorder", ValueError("broken")))
    overhead = 200
    body = json.dumps({**EVENT, "filler": "x" * (consumer.queue.max_message_bytes - overhead)})
    message = Message("id-1", body, "ProductAdded")
    assert driver.send(consumer.queue, [message]) == []

    consumer.consume_event()

    assert is_empty(driver)
    [dead] = dead_letters()
    assert dead.body == body
    assert DEAD_LETTER_HEADER not in dead.headers


# --- steering --------------------------------------------------------------------------------------


def test_retry_brings_the_message_back_after_its_own_delay(clock, make_consumer, publisher):
    consumer = make_consumer()
    recorder = Recorder("Recorder", Retry(delay_seconds=59.5))
    consumer.subscribe(recorder)
    publisher.publish(EVENT)

    consumer.consume_event()
    clock.advance(59)
    assert consumer.consume_event() == 0
    clock.advance(1)
    assert consumer.consume_event() == 1

    assert len(recorder.events) == 2


def test_a_retry_longer_than_the_broker_can_wait_comes_at_its_longest(clock, make_consumer, publisher):
    consumer = make_consumer()
    recorder = Recorder("Recorder", Retry(delay_seconds=1_000_000))
    consumer.subscribe(recorder)
    publisher.publish(EVENT)

    assert consumer.consume_event() == 1
    clock.advance(43_200)

    assert consumer.consume_event() == 1


@pytest.mark.parametrize("delay_seconds", [-1, float("nan"), float("inf")])
def test_a_retry_cannot_be_after_no_time(delay_seconds):
    with pytest.raises(ValueError, match="delay_seconds"):
        Retry(delay_seconds)


def test_retries_end_with_the_last_attempt(driver, clock, make_consumer, publisher, dead_letters):
    consumer = make_consumer(max_attempts=2)
    consumer.subscribe(Recorder("Recorder", Retry(1), Retry(1), Retry(1)))
    publisher.publish(EVENT)

    for _ in range(3):
        consumer.consume_event()
        clock.advance(1)

    assert is_empty(driver)
    assert len(dead_letters()) == 1


def test_a_reason_that_two_listeners_share_is_given_once(make_consumer, publisher, dead_letters):
    consumer = make_consumer()
    for name in ("take", "count"):
        consumer.listener(name=name)(_reject_unknown_product)
    publisher.publish(EVENT)

    consumer.consume_event()

    [dead] = dead_letters()
    assert reason_of(dead)["reason"] == "unknown product"
    assert reason_of(dead)["listener"] == "take, count"


def _reject_unknown_product(event):
    raise Reject("unknown product")


def test_reject_sets_the_message_aside_at_once(driver, make_consumer, publisher, dead_letters):
    consumer = make_consumer()
    recorder = Recorder("StockListener", Reject("unknown product"))
    consumer.subscribe(recorder)
    publisher.publish(EVENT)

    assert consumer.consume_event() == 1

    assert is_empty(driver)
    [dead] = dead_letters()
    assert reason_of(dead)["reason"] == "unknown product"
    assert reason_of(dead)["listener"] == "StockListener"


def test_a_rejection_waits_for_a_listener_that_may_yet_succeed(
    driver, clock, make_consumer, publisher, dead_letters
):
    consumer = make_consumer()
    failing, rejecting = Recorder("failing", ValueError()), Recorder("rejecting", Reject("no"), Reject("no"))
    consumer.subscribe(failing)
    consumer.subscribe(rejecting)
    publisher.publish(EVENT)

    consumer.consume_event()
    assert dead_letters() == []
    clock.advance(10)
    consumer.consume_event()

    assert len(failing.events) == 2
    assert len(dead_letters()) == 1
    assert is_empty(driver)


def test_of_several_delays_the_longest_holds(clock, make_consumer, publisher):
    consumer = make_consumer()
    consumer.subscribe(Recorder("first", Retry(5)))
    consumer.subscribe(Recorder("second", Retry(20)))
    publisher.publish(EVENT)

    consumer.consume_event()
    clock.advance(19)
    assert consumer.consume_event() == 0
    clock.advance(1)

    assert consumer.consume_event() == 1


def test_without_a_dead_letter_queue_a_rejected_message_stays(
    driver, clock, make_consumer, publisher, caplog
):
    consumer = make_consumer(dead_letter_queue_name=NO_DEAD_LETTER_QUEUE)
    consumer.subscribe(Recorder("Recorder", Reject("no"), Reject("no")))
    publisher.publish(EVENT)

    with caplog.at_level(logging.ERROR):
        assert consumer.consume_event() == 1
        assert consumer.consume_event() == 0
        clock.advance(10)
        assert consumer.consume_event() == 1

    assert depth(driver).in_flight == 1
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "no dead-letter queue" in caplog.text


# --- malformed messages ----------------------------------------------------------------------------


MALFORMED = {
    "not JSON": "not json",
    "a number": "5",
    "null": "null",
    "a text": '"text"',
    "a list": "[1, 2]",
    "no type": "{}",
    "a number as type": '{"event_type_name": 5}',
    "an empty type": '{"event_type_name": ""}',
    "NaN": '{"event_type_name": "ProductAdded", "price": NaN}',
    "infinity": '{"event_type_name": "ProductAdded", "price": 1e400}',
    "a lone surrogate": '{"event_type_name": "ProductAdded", "name": "\\ud800"}',
    "a huge integer": '{"event_type_name": "ProductAdded", "number": ' + "9" * 4301 + "}",
    "deep nesting": "[" * 5000 + "]" * 5000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_message_is_set_aside_and_its_neighbours_are_processed(
    driver, make_consumer, publisher, dead_letters, body
):
    consumer = make_consumer()
    recorder = Recorder()
    consumer.subscribe(recorder)
    publisher.publish({**EVENT, "product_id": 1})
    driver.send(consumer.queue, [Message("bad", body)])
    publisher.publish({**EVENT, "product_id": 2})

    assert consumer.consume_event() == 3

    assert [event["product_id"] for event in recorder.events] == [1, 2]
    [dead] = dead_letters()
    assert dead.body == body
    assert reason_of(dead)["reason"].startswith("malformed message: ")
    assert is_empty(driver)


# --- deduplication ---------------------------------------------------------------------------------


def test_a_copy_of_a_finished_message_is_acknowledged_without_running(driver, make_consumer, publisher):
    consumer = make_consumer()
    recorder = Recorder()
    consumer.subscribe(recorder)
    for _ in range(2):
        publisher.publish(EVENT, message_id="same")

    assert consumer.consume_event() == 2

    assert len(recorder.events) == 1
    assert is_empty(driver)


def test_another_message_under_a_used_id_is_another_message(driver, make_consumer, publisher, dead_letters):
    consumer = make_consumer()
    recorder = Recorder()
    consumer.subscribe(recorder)
    publisher.publish(EVENT, message_id="same")
    publisher.publish({**EVENT, "product_id": 2}, message_id="same")
    publisher.publish(EVENT, message_id="same", headers={"tenant": "north"})
    publisher.publish(EVENT, message_id="same", headers={"traceparent": "00-1-2-01"})

    consumer.consume_event()

    assert recorder.events == [EVENT, {**EVENT, "product_id": 2}, EVENT]  # tracing makes no other message
    assert dead_letters() == []
    assert is_empty(driver)


def test_the_same_message_on_two_queues_runs_on_both(make_consumer, publisher):
    recorders = []
    for queue_name in ("stock", "mail"):
        consumer = make_consumer(queue_name)
        recorders.append((consumer, Recorder()))
        consumer.subscribe(recorders[-1][1])
    publisher.publish(EVENT)

    for consumer, _ in recorders:
        consumer.consume_event()

    assert [len(recorder.events) for _, recorder in recorders] == [1, 1]


def test_without_a_store_a_copy_runs_again(make_consumer, publisher):
    consumer = make_consumer(deduplication=NO_DEDUPLICATION)
    recorder = Recorder()
    consumer.subscribe(recorder)
    for _ in range(2):
        publisher.publish(EVENT, message_id="same")

    consumer.consume_event()

    assert len(recorder.events) == 2


def test_a_message_somebody_else_is_at_comes_back_later_and_is_no_failed_attempt(
    driver, clock, store, make_consumer, publisher, dead_letters
):
    consumer = make_consumer(max_attempts=2)  # the claim of somebody else was the first
    recorder = Recorder()
    consumer.subscribe(recorder)
    message_id = publisher.publish(EVENT)
    store.claim(key_of(consumer.queue, "Recorder", message_id, EVENT), "somebody else", 15)

    consumer.consume_event()
    assert recorder.events == []
    clock.advance(20)
    consumer.consume_event()

    assert recorder.events == [EVENT]
    assert dead_letters() == []
    assert is_empty(driver)


class UnavailableStore(MemoryDeduplicationStore):
    """Goes out of reach with one message, and comes back on request."""

    is_back = False

    def check(self):
        if not self.is_back:
            raise DeduplicationError("the store is out of reach")

    def claim(self, key, token, lease_seconds):
        if key.message_id == "unlucky":
            self.check()
        return super().claim(key, token, lease_seconds)


def test_a_store_out_of_reach_gives_the_messages_back_unrun(driver, make_consumer, publisher):
    store = UnavailableStore()
    consumer = make_consumer(deduplication=store)
    counts = []
    consumer.listener(name="count")(lambda event, receive_count: counts.append(receive_count))
    for message_id in ("before", "unlucky", "after"):
        publisher.publish(EVENT, message_id=message_id)

    for _ in range(30):
        with pytest.raises(DeduplicationError):
            consumer.consume_event()
    assert counts == [1]
    assert depth(driver).visible == 2
    store.is_back = True
    consumer.consume_event()

    assert counts == [1, 2, 2]
    assert is_empty(driver)


# --- leases ----------------------------------------------------------------------------------------


def test_a_delivery_whose_lease_ran_out_while_waiting_is_not_run(driver, clock, make_consumer, publisher):
    consumer = make_consumer(visibility_timeout_seconds=30)

    class Slow(ExchangeListener):
        ran = 0

        def process(self, event):
            self.ran += 1
            clock.advance(31)

    slow = Slow()
    consumer.subscribe(slow)
    publisher.publish_batch([EVENT, EVENT])

    settled = consumer.consume_event()

    assert slow.ran == 1
    assert settled == 0
    assert depth(driver).visible == 2


def test_what_fails_for_good_after_its_lease_ran_out_is_no_dead_letter(
    driver, clock, make_consumer, publisher
):
    consumer = make_consumer(visibility_timeout_seconds=30)
    attempts = []

    @consumer.listener()
    def outlast_the_lease_at_first(event):
        attempts.append(event)
        if len(attempts) == 1:
            clock.advance(31)
            raise Reject("no")

    publisher.publish(EVENT)
    settled = [consumer.consume_event(), consumer.consume_event()]

    assert settled == [0, 1]
    assert is_empty(driver, "stock-dlq")


def test_work_that_outlasted_its_lease_is_recognised_when_it_comes_back(
    driver, clock, make_consumer, publisher
):
    consumer = make_consumer(visibility_timeout_seconds=30)
    runs = []

    @consumer.listener()
    def slow(event):
        runs.append(event)
        clock.advance(31)

    publisher.publish(EVENT)

    consumer.consume_event()
    assert consumer.consume_event() == 1

    assert len(runs) == 1
    assert is_empty(driver)


def test_work_whose_claim_another_has_taken_over_is_left_to_that_one(driver, make_consumer, publisher):
    store_clock = ManualClock()
    store = MemoryDeduplicationStore(clock=store_clock)
    consumer = make_consumer(deduplication=store)

    @consumer.listener(name="overtaken")
    def overtaken(event, message_id):
        store_clock.advance(3_600)
        taken = store.claim(key_of(consumer.queue, "overtaken", message_id, EVENT), "other", 30)
        assert isinstance(taken, Claimed)

    publisher.publish(EVENT)

    assert consumer.consume_event() == 0
    assert depth(driver).in_flight == 1


class AnswersLate(InMemoryDriver):
    """Messages come at the end of the wait, and deadlines count from its beginning, as over a network."""

    def receive(self, queue, limit, wait_seconds, *, visibility_timeout_seconds=30):
        asked_at = self.clock.monotonic()
        self.clock.advance(wait_seconds)
        return [
            delivery._replace(deadline=asked_at + visibility_timeout_seconds)
            for delivery in super().receive(
                queue, limit, 0, visibility_timeout_seconds=visibility_timeout_seconds
            )
        ]


def test_a_long_wait_leaves_the_whole_visibility_timeout_for_the_work(clock, store):
    driver = AnswersLate(clock=clock)
    consumer = ExchangeMessageConsumer(
        "stock",
        driver=driver,
        deduplication=store,
        queue=QueueOptions(wait_seconds=20, visibility_timeout_seconds=10),
    )
    recorder = Recorder()
    consumer.subscribe(recorder)
    driver.send(consumer.queue, [Message("id-1", json.dumps(EVENT))])

    assert consumer.consume_event() == 1

    assert recorder.events == [EVENT]
    assert is_empty(driver)


class FailingAcknowledgements(InMemoryDriver):
    """Acknowledges nothing for a while, as a broker that is out of reach."""

    failing = True

    def acknowledge(self, deliveries):
        if self.failing:
            return [Failure(delivery, DriverConnectionError("out of reach")) for delivery in deliveries]
        return super().acknowledge(deliveries)


def test_an_acknowledgement_that_failed_is_made_up_for_without_running_again(clock, store, caplog):
    driver = FailingAcknowledgements(clock=clock)
    consumer = ExchangeMessageConsumer(
        "stock", driver=driver, deduplication=store, queue=QueueOptions(wait_seconds=0)
    )
    recorder = Recorder()
    consumer.subscribe(recorder)
    driver.send(consumer.queue, [Message("id-1", json.dumps(EVENT))])

    assert consumer.consume_event() == 0
    driver.failing = False
    clock.advance(30)
    assert consumer.consume_event() == 1

    assert len(recorder.events) == 1
    assert is_empty(driver)
    assert "could not be acknowledged and will be delivered again" in caplog.text


class LosesLeases(InMemoryDriver):
    """Reports every lease as lost."""

    def acknowledge(self, deliveries):
        return [Failure(delivery, LeaseLostError("gone")) for delivery in deliveries]


def test_a_lost_lease_is_reported_and_not_counted_as_settled(clock, store, caplog):
    driver = LosesLeases(clock=clock)
    consumer = ExchangeMessageConsumer(
        "stock", driver=driver, deduplication=store, queue=QueueOptions(wait_seconds=0)
    )
    consumer.subscribe(Recorder())
    driver.send(consumer.queue, [Message("id-1", json.dumps(EVENT))])

    settled = consumer.consume_event()

    assert settled == 0
    assert "expired: it is left to its next receiver" in caplog.text


class RefusesDeadLetters(InMemoryDriver):
    """Cannot send."""

    refusing = False

    def send(self, queue, messages, *, delay_seconds=0):
        if self.refusing:
            return [Failure(message, DriverConnectionError("out of reach")) for message in messages]
        return super().send(queue, messages, delay_seconds=delay_seconds)


def test_what_cannot_be_set_aside_is_not_acknowledged(clock, store):
    driver = RefusesDeadLetters(clock=clock)
    consumer = ExchangeMessageConsumer(
        "stock", driver=driver, deduplication=store, queue=QueueOptions(wait_seconds=0)
    )
    consumer.subscribe(Recorder("Recorder", Reject("no")))
    driver.send(consumer.queue, [Message("id-1", json.dumps(EVENT))])
    driver.refusing = True

    consumer.consume_event()

    assert depth(driver).in_flight == 1


# --- the process ends ------------------------------------------------------------------------------


def test_an_interrupt_settles_what_is_finished_and_gives_the_rest_back(driver, make_consumer, publisher):
    consumer = make_consumer()
    recorder = Recorder("Recorder", None, KeyboardInterrupt())
    consumer.subscribe(recorder)
    publisher.publish_batch([{**EVENT, "product_id": number} for number in range(4)])

    with pytest.raises(KeyboardInterrupt):
        consumer.consume_event()

    assert depth(driver).visible == 3
    assert consumer.consume_event() == 3
    assert sorted(event["product_id"] for event in recorder.events) == [0, 1, 1, 2, 3]


# --- FIFO ------------------------------------------------------------------------------------------


def test_a_failure_holds_its_group_and_leaves_other_groups_alone(driver, clock, make_consumer):
    consumer = make_consumer("stock.fifo", "products.fifo")
    publisher = ExchangeMessagePublisher("products.fifo", driver)
    seen = []

    @consumer.listener()
    def note(event):
        seen.append((event["group"], event["number"]))
        if seen.count(("a", 1)) == 1 and event["group"] == "a" and event["number"] == 1:
            raise ValueError

    publisher.publish_batch(
        [{**EVENT, "group": group, "number": number} for number in range(3) for group in "ab"],
        message_group_id=lambda event: event["group"],
    )

    while consumer.consume_event():
        pass
    clock.advance(10)
    while consumer.consume_event():
        pass

    assert [number for group, number in seen if group == "a"] == [0, 1, 1, 2]
    assert [number for group, number in seen if group == "b"] == [0, 1, 2]
    assert is_empty(driver, "stock.fifo")


def test_followers_of_a_failing_head_are_not_received_until_it_is_settled(
    driver, clock, make_consumer, dead_letters
):
    consumer = make_consumer("stock.fifo", "products.fifo", max_attempts=5)
    publisher = ExchangeMessagePublisher("products.fifo", driver)
    counts = {}

    @consumer.listener()
    def note(event, receive_count):
        counts.setdefault(event["number"], []).append(receive_count)
        if event["number"] < 4:
            raise ValueError

    publisher.publish_batch([{**EVENT, "number": number} for number in range(5)], message_group_id="a")

    for _ in range(40):
        consumer.consume_event()
        clock.advance(10)

    assert counts == {**{number: [1, 2, 3, 4, 5] for number in range(4)}, 4: [1]}
    dead = dead_letters("stock-dlq.fifo")
    assert [json.loads(message.body)["number"] for message in dead] == [0, 1, 2, 3]
    assert {message.message_group_id for message in dead} == {"a"}


def test_a_dead_letter_that_fails_again_within_the_window_is_not_taken_for_a_duplicate(
    driver, make_consumer, dead_letters
):
    consumer = make_consumer("stock.fifo", "products.fifo", max_attempts=1)
    consumer.subscribe(Recorder("Recorder", *[ValueError()] * 2))
    ExchangeMessagePublisher("products.fifo", driver).publish(EVENT, message_group_id="a")
    consumer.consume_event()

    driver.send(consumer.queue, dead_letters("stock-dlq.fifo"))
    consumer.consume_event()

    assert len(dead_letters("stock-dlq.fifo")) == 1
