"""Hooks around publishing, preparing and settling, and the hooks of a driver."""

import threading

import pytest

from melange import (
    ConfigurationError,
    DriverConnectionError,
    DriverManager,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    Middleware,
    QueueMessagePublisher,
    QueueOptions,
    RetryPolicy,
    Worker,
)
from melange.consuming.outcomes import DUPLICATE, UNHANDLED, Acknowledge, DeadLetter, Defer, combined_outcome
from melange.drivers.memory import InMemoryDriver
from melange.errors import Failure

EVENT = {"event_type_name": "ProductAdded"}


def consumer_on(driver, **options):
    return ExchangeMessageConsumer(
        "stock", "products", driver=driver, queue=QueueOptions(wait_seconds=0), **options
    )


class Noting(Middleware):
    def __init__(self, name="hook"):
        self.name = name
        self.notes = []

    def around_publish(self, destination, messages, publish):
        self.notes.append(f"{self.name}: {len(messages)} to {destination.name}")
        failures = publish(messages)
        self.notes.append(f"{self.name}: {len(failures)} failed")
        return failures


def test_publishing_goes_through_the_hooks_of_the_driver_the_first_outermost():
    outer, inner = Noting("outer"), Noting("inner")
    outer.notes = inner.notes
    with InMemoryDriver() as driver:
        driver.middleware = (outer, inner)
        consumer_on(driver)

        ExchangeMessagePublisher("products", driver).publish(EVENT)
        ExchangeMessagePublisher("products", driver).publish_batch([EVENT, EVENT])
        QueueMessagePublisher("stock", driver).send(EVENT, delay_seconds=5)

        assert outer.notes == [
            *("outer: 1 to products", "inner: 1 to products", "inner: 0 failed", "outer: 0 failed"),
            *("outer: 2 to products", "inner: 2 to products", "inner: 0 failed", "outer: 0 failed"),
            *("outer: 1 to stock", "inner: 1 to stock", "inner: 0 failed", "outer: 0 failed"),
        ]
        depth = driver.measure_queue(driver.get_queue("stock"))
        assert (depth.visible, depth.delayed) == (3, 1)


class Stamping(Middleware):
    def around_publish(self, destination, messages, publish):
        return publish([message._replace(headers={**message.headers, "stamp": "1"}) for message in messages])


def test_a_hook_may_add_headers_to_what_is_published():
    with InMemoryDriver() as driver:
        driver.middleware = [Stamping()]
        consumer, seen = consumer_on(driver), []
        consumer.listener(name="see")(lambda event, headers: seen.append(dict(headers)))

        ExchangeMessagePublisher("products", driver).publish(EVENT, headers={"own": "2"})
        consumer.consume_event()

        assert seen == [{"own": "2", "stamp": "1"}]


class Refusing(Middleware):
    def around_publish(self, destination, messages, publish):
        return [Failure(message, DriverConnectionError("closed for today")) for message in messages]


def test_a_hook_may_refuse_what_is_published():
    with InMemoryDriver() as driver:
        driver.middleware = [Refusing()]

        with pytest.raises(DriverConnectionError, match="closed for today"):
            ExchangeMessagePublisher("products", driver).publish(EVENT)


class Forgetful(Middleware):
    def around_publish(self, destination, messages, publish):
        publish(messages)

    def prepare(self, destination_name, message):
        return None


def test_a_hook_that_does_not_return_the_failures_is_an_error_with_advice():
    with InMemoryDriver() as driver:
        driver.middleware = [Forgetful()]

        with pytest.raises(ConfigurationError, match=r"around_publish of Forgetful returned NoneType"):
            ExchangeMessagePublisher("products", driver).publish(EVENT)


def test_middleware_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match="takes a list of Middleware"):
        DriverManager().use_driver(InMemoryDriver(), middleware=[Noting])


def test_the_hooks_of_a_driver_go_around_those_of_a_consumer():
    notes = []

    class Delivering(Middleware):
        def __init__(self, name):
            self.name = name

        def around_delivery(self, delivery, process):
            notes.append(self.name)
            return process()

    manager = DriverManager()
    with manager.use_driver(driver_name="memory", middleware=[Delivering("driver")]) as driver:
        consumer = consumer_on(driver, middleware=[Delivering("consumer")])
        consumer.listener(name="see")(lambda event: None)
        ExchangeMessagePublisher("products", driver).publish(EVENT)

        consumer.consume_event()

        assert notes == ["driver", "consumer"]


# --- outcomes ------------------------------------------------------------------------------------


class Outcomes(Middleware):
    def __init__(self):
        self.of_listeners = []
        self.of_deliveries = []

    def around_listener(self, call, run):
        outcome = run(call)
        self.of_listeners.append(outcome)
        return outcome

    def around_delivery(self, delivery, process):
        outcome = process()
        self.of_deliveries.append(outcome)
        return outcome


def test_an_outcome_has_the_exception_and_the_attempt():
    outcomes = Outcomes()
    error = ValueError("no such shelf")
    with InMemoryDriver() as driver:
        retry = RetryPolicy(max_attempts=2, backoff=lambda attempts: 0)
        consumer = consumer_on(driver, middleware=[outcomes], retry=retry)

        @consumer.listener(name="fail")
        def fail(event):
            raise error

        ExchangeMessagePublisher("products", driver).publish(EVENT)
        consumer.consume_event()
        consumer.consume_event()

    first, second = outcomes.of_deliveries
    assert isinstance(first, Defer)
    assert (first.error, first.attempt) == (error, 1)
    assert isinstance(second, DeadLetter)
    assert (second.error, second.attempts) == (error, 2)
    assert outcomes.of_listeners == outcomes.of_deliveries


def test_a_message_that_was_finished_before_is_marked_as_a_duplicate_and_runs_no_listener():
    outcomes = Outcomes()
    with InMemoryDriver() as driver:
        consumer = consumer_on(driver, middleware=[outcomes])
        consumer.listener("ProductAdded", name="see")(lambda event: None)
        publisher = ExchangeMessagePublisher("products", driver)
        publisher.publish(EVENT, message_id="one")
        publisher.publish(EVENT, message_id="one")
        publisher.publish({"event_type_name": "Unknown"})

        consumer.consume_event()

    assert [outcome.reason for outcome in outcomes.of_deliveries] == ["done", "duplicate", "unhandled"]
    assert len(outcomes.of_listeners) == 1


def test_combined_outcomes_keep_the_exception_and_tell_duplicates():
    error = ValueError()

    assert combined_outcome([DUPLICATE, DUPLICATE]).reason == "duplicate"
    assert combined_outcome([DUPLICATE, Acknowledge()]).reason == "done"
    assert combined_outcome([Defer(1, error, 3), Defer(0)]).error is error
    assert combined_outcome([DeadLetter("no"), DeadLetter("no", error=error)]).error is error
    assert Acknowledge() == UNHANDLED  # the reason does not change what is done


# --- settling ------------------------------------------------------------------------------------


class Settling(Middleware):
    def __init__(self, behaviour="settle"):
        self.behaviour = behaviour
        self.seen = []

    def around_settle(self, queue, outcomes, settle):
        self.seen.append((queue.name, [type(outcome).__name__ for _, outcome in outcomes]))
        if self.behaviour == "break before":
            raise ValueError("the hook is broken")
        if self.behaviour != "forget":
            settle()
        if self.behaviour == "break after":
            raise ValueError("the hook is broken")
        if self.behaviour == "twice":
            settle()


@pytest.mark.parametrize("behaviour", ["settle", "forget", "twice", "break before", "break after"])
def test_deliveries_are_settled_once_whatever_a_hook_does(behaviour):
    settling = Settling(behaviour)
    with InMemoryDriver() as driver:
        consumer = consumer_on(driver, middleware=[settling])
        consumer.listener(name="see")(lambda event: None)
        ExchangeMessagePublisher("products", driver).publish_batch([EVENT] * 3)

        assert consumer.consume_event() == 3

        assert settling.seen == [("stock", ["Acknowledge"] * 3)]
        depth = driver.measure_queue(consumer.queue)
        assert (depth.visible, depth.in_flight) == (0, 0)


def test_the_hooks_get_to_know_a_worker_before_it_receives_once():
    class Meeting(Middleware):
        def __init__(self):
            self.workers = []

        def worker_started(self, worker):
            self.workers.append((worker, worker.health().queues[0].seconds_since_poll))

    meeting, done = Meeting(), threading.Event()
    with InMemoryDriver() as driver:
        driver.middleware = [meeting]
        consumer = ExchangeMessageConsumer("stock", "products", driver=driver)
        other = ExchangeMessageConsumer("audit", "products", driver=driver)
        for one in (consumer, other):
            one.listener(name="done")(lambda event: done.set())
        worker = Worker(consumer, other, grace_seconds=10)
        worker.start()
        ExchangeMessagePublisher("products", driver).publish(EVENT)

        assert done.wait(30)
        assert worker.stop(30)
        assert meeting.workers == [(worker, None)]
