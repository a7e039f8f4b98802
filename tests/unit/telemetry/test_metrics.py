"""Metrics by the semantic conventions, and the numbers of workers and outboxes."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from melange import (
    DriverConnectionError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    Middleware,
    RetryPolicy,
    Worker,
)
from melange.drivers.memory import InMemoryDriver
from melange.errors import Failure
from melange.outbox import Outbox, OutboxMessage, OutboxRelay
from melange.telemetry import Metrics
from waiting import eventually

EVENT = {"event_type_name": "ProductAdded"}


@pytest.fixture
def counting(driver, measured, clock):
    counting = Metrics(measured.provider, clock=clock)
    driver.middleware = [counting]
    return counting


def test_sent_and_consumed_messages_are_counted_by_destination(counting, measured, driver, make_consumer):
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)
    publisher = ExchangeMessagePublisher("products", driver)
    publisher.publish(EVENT)
    publisher.publish_batch([EVENT] * 3)

    consumer.consume_event()

    destination = "messaging.destination.name"
    assert measured.values("messaging.client.sent.messages", destination) == {"products": 4}
    assert measured.values("messaging.client.consumed.messages", destination) == {"stock": 4}
    (point,) = measured.points("messaging.client.sent.messages")
    assert dict(point.attributes) == {
        "messaging.system": "melange.memory",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "products",
    }


def test_operations_and_processing_are_measured(counting, measured, driver, make_consumer):
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)
    ExchangeMessagePublisher("products", driver).publish_batch([EVENT] * 3)

    consumer.consume_event()

    operations = measured.values("messaging.client.operation.duration", "messaging.operation.name")
    assert operations == {"send": 1, "receive": 1, "settle": 1}
    assert measured.values("messaging.process.duration", "melange.outcome") == {"done": 3}
    assert measured.values("melange.listener.duration", "melange.listener.name") == {"shelve": 3}


class Refusing(Middleware):
    """Stands for a broker that refuses some messages, or is away."""

    def __init__(self, refuses, error=None):
        self.refuses = refuses
        self.error = error

    def around_publish(self, destination, messages, publish):
        if self.error is not None:
            raise self.error
        return [Failure(message, DriverConnectionError("away")) for message in messages[: self.refuses]]


def test_messages_that_were_not_accepted_are_counted_by_their_error(measured, driver):
    driver.middleware = [Metrics(measured.provider), Refusing(2)]

    with pytest.raises(Exception, match="2 of 3"):
        ExchangeMessagePublisher("products", driver).publish_batch([EVENT] * 3)

    sent = measured.values("messaging.client.sent.messages", "error.type")
    assert sent == {None: 1, "melange.errors.DriverConnectionError": 2}


def test_a_call_that_raises_is_counted_by_its_error(measured, driver):
    driver.middleware = [Metrics(measured.provider), Refusing(0, DriverConnectionError("away"))]

    with pytest.raises(DriverConnectionError):
        ExchangeMessagePublisher("products", driver).publish(EVENT)

    sent = measured.values("messaging.client.sent.messages", "error.type")
    assert sent == {"melange.errors.DriverConnectionError": 1}


def test_outcomes_attempts_and_dead_letters_are_counted(counting, measured, driver, make_consumer):
    consumer = make_consumer(retry=RetryPolicy(max_attempts=2, backoff=lambda attempts: 0))

    @consumer.listener("ProductAdded", name="shelve")
    def fail(event):
        raise ValueError

    publisher = ExchangeMessagePublisher("products", driver)
    publisher.publish(EVENT)
    publisher.publish({"event_type_name": "Unknown"})
    consumer.consume_event()
    consumer.consume_event()

    outcomes = measured.values("messaging.process.duration", "melange.outcome")
    assert outcomes == {"retry": 1, "unhandled": 1, "dead_letter": 1}
    (attempts,) = measured.points("melange.listener.attempts")
    assert (attempts.count, attempts.sum) == (1, 2)
    (dead_letters,) = measured.points("melange.dead_letters")
    assert dead_letters.value == 1
    assert dict(dead_letters.attributes) == {
        "messaging.destination.name": "stock",
        "melange.listener.name": "shelve",
        "error.type": "ValueError",
    }


def test_duplicates_are_told_from_what_was_done(counting, measured, driver, make_consumer):
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)
    publisher = ExchangeMessagePublisher("products", driver)
    publisher.publish(EVENT, message_id="1")
    publisher.publish(EVENT, message_id="1")

    consumer.consume_event()

    assert measured.values("messaging.process.duration", "melange.outcome") == {"done": 1, "duplicate": 1}


def test_the_lag_is_the_age_of_the_oldest_message_and_ends_with_the_queue(
    counting, measured, driver, make_consumer, clock
):
    consumer = make_consumer()
    consumer.listener(name="shelve")(lambda event: None)
    messages = ExchangeMessagePublisher("products", driver)
    messages.publish(EVENT)
    (delivery,) = driver.receive(consumer.queue, 1, 0, visibility_timeout_seconds=0)
    old = delivery.message._replace(message_id="old", published_at=clock.now() - timedelta(seconds=90))
    young = delivery.message._replace(message_id="young", published_at=clock.now() + timedelta(seconds=90))
    driver.acknowledge([delivery])
    driver.purge_queue(consumer.queue)
    driver.send(consumer.queue, [old, young])

    consumer.consume_event()
    behind = measured.values("melange.queue.lag", "messaging.destination.name")
    (ages,) = measured.points("melange.message.age")
    consumer.consume_event()
    caught_up = measured.values("melange.queue.lag", "messaging.destination.name")

    assert behind == {"stock": 90}
    assert (ages.count, ages.min, ages.max) == (2, 0, 90)
    assert caught_up == {"stock": 0}


def test_the_numbers_of_a_worker_are_reported_while_it_runs(measured):
    with InMemoryDriver() as driver:
        driver.middleware = [Metrics(measured.provider)]
        consumer = ExchangeMessageConsumer("stock", "products", driver=driver)
        begun, go_on = threading.Event(), threading.Event()

        @consumer.listener(name="wait")
        def wait(event):
            begun.set()
            go_on.wait(30)

        worker = Worker(consumer, concurrency=3, grace_seconds=10)
        worker.start()
        ExchangeMessagePublisher("products", driver).publish(EVENT)
        assert begun.wait(30)

        assert measured.values("melange.queue.in_flight", "messaging.destination.name") == {"stock": 1}
        assert measured.values("melange.queue.in_flight.limit", "messaging.destination.name") == {"stock": 93}
        assert measured.values("melange.worker.ready", "") == {None: 1}
        assert measured.values("melange.queue.store_available", "") == {None: 1}
        assert measured.values("melange.queue.leases_lost", "") == {None: 0}
        assert measured.values("melange.queue.timed_out", "") == {None: 0}
        assert measured.values("melange.queue.open", "") == {None: 1}
        assert measured.points("melange.queue.last_poll")[0].value >= 0
        assert measured.points("melange.worker.longest_run")[0].value > 0
        go_on.set()
        assert worker.stop(30)
        assert measured.points("melange.queue.in_flight") == []


def test_the_backlog_of_an_outbox_is_reported_and_goes_back_to_nothing(counting, measured, driver, clock):
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    OutboxMessage.metadata.create_all(engine)
    driver.declare_topic("orders")
    with Session(engine) as session, session.begin():
        outbox = Outbox(session)
        outbox.publish("orders", EVENT)
        outbox.publish("orders", EVENT)
    counting.observe_outbox(engine)

    before = measured.values("melange.outbox.messages", "melange.outbox.state")
    age = measured.points("melange.outbox.age")[0].value
    OutboxRelay(engine, driver).relay_pending()
    after = measured.values("melange.outbox.messages", "melange.outbox.state")

    assert before == {"pending": 2, "failed": 0, "held": 0}
    assert age >= 0
    assert after == {"pending": 0, "failed": 0, "held": 0}
    assert measured.values("messaging.client.sent.messages", "messaging.destination.name") == {"orders": 2}
    engine.dispose()


def test_of_one_topic_in_two_outboxes_all_messages_are_counted(counting, measured):
    engines = []
    for number in (1, 2):
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        OutboxMessage.metadata.create_all(engine)
        with Session(engine) as session, session.begin():
            for _ in range(number):
                Outbox(session).publish("orders", EVENT)
        counting.observe_outbox(engine)
        engines.append(engine)

    assert measured.values("melange.outbox.messages", "melange.outbox.state")["pending"] == 3

    for engine in engines:
        engine.dispose()


def test_a_relay_that_starts_reports_its_outbox(counting, measured, driver, tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'outbox.db'}")
    OutboxMessage.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        Outbox(session).publish("missing", EVENT)
    relay = OutboxRelay(engine, driver, declare=False, poll_seconds=0.05, handle_signals=False)

    relay.start()

    states = eventually(lambda: measured.values("melange.outbox.messages", "melange.outbox.state"))
    assert states == {"pending": 1, "failed": 0, "held": 0}
    assert relay.stop(30)
    engine.dispose()


def test_an_outbox_that_cannot_be_read_any_more_is_not_reported_as_empty(counting, measured, driver):
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    OutboxMessage.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        Outbox(session).publish("orders", EVENT)
    counting.observe_outbox(engine)
    before = measured.values("melange.outbox.messages", "melange.outbox.state")

    OutboxMessage.metadata.drop_all(engine)

    assert before["pending"] == 1
    assert measured.points("melange.outbox.messages") == []
    assert measured.points("melange.outbox.age") == []
    engine.dispose()


def test_an_outbox_that_cannot_be_read_is_left_out_with_a_warning(counting, measured, caplog):
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    counting.observe_outbox(engine)  # it has no table

    assert measured.points("melange.outbox.messages") == []
    assert "the outbox is not measured" in caplog.text
    engine.dispose()


def test_without_an_sdk_everything_works(driver, make_consumer):
    driver.middleware = [Metrics()]
    consumer, seen = make_consumer(), []
    consumer.listener(name="see")(seen.append)

    ExchangeMessagePublisher("products", driver).publish(EVENT)
    consumer.consume_event()

    assert seen == [EVENT]
