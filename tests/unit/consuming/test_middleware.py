"""Hooks around polls, deliveries and listeners, and hooks that misbehave."""

import threading

import pytest

from melange import (
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    Middleware,
    QueueOptions,
    RetryPolicy,
    Worker,
)
from melange.consuming.outcomes import Acknowledge, DeadLetter, Defer, Leave
from melange.drivers.memory import InMemoryDriver

EVENT = {"event_type_name": "ProductAdded"}


class Noting(Middleware):
    """Writes down what it goes around."""

    def __init__(self, name, notes):
        self.name = name
        self.notes = notes

    def around_poll(self, queue, poll):
        self.notes.append(f"{self.name} before the poll of {queue.name}")
        received = poll()
        self.notes.append(f"{self.name} after {len(received)}")
        return received

    def around_delivery(self, delivery, process):
        self.notes.append(f"{self.name} before delivery")
        outcome = process()
        self.notes.append(f"{self.name} after delivery: {type(outcome).__name__}")
        return outcome

    def around_listener(self, call, run):
        self.notes.append(f"{self.name} before {call.listener_name} of {call.event_type_name}")
        outcome = run(call)
        self.notes.append(f"{self.name} after {call.listener_name}: {type(outcome).__name__}")
        return outcome


def test_hooks_go_around_the_first_outermost(make_consumer, publisher):
    notes = []
    consumer = make_consumer(middleware=[Noting("outer", notes), Noting("inner", notes)])
    consumer.listener(name="listener")(lambda event: notes.append("listening"))
    publisher.publish(EVENT)

    consumer.consume_event()

    assert notes == [
        "outer before the poll of stock",
        "inner before the poll of stock",
        "inner after 1",
        "outer after 1",
        "outer before delivery",
        "inner before delivery",
        "outer before listener of ProductAdded",
        "inner before listener of ProductAdded",
        "listening",
        "inner after listener: Acknowledge",
        "outer after listener: Acknowledge",
        "inner after delivery: Acknowledge",
        "outer after delivery: Acknowledge",
    ]


def test_a_hook_sees_a_failure_as_an_outcome(make_consumer, publisher):
    notes = []
    consumer = make_consumer(middleware=[Noting("hook", notes)])

    @consumer.listener(name="listener")
    def fail(event):
        raise ValueError

    publisher.publish(EVENT)

    consumer.consume_event()

    assert "hook after listener: Defer" in notes
    assert "hook after delivery: Defer" in notes


class Overruling(Middleware):
    def around_listener(self, call, run):
        return DeadLetter("overruled")


def test_a_hook_may_decide_otherwise(make_consumer, publisher, dead_letters):
    consumer = make_consumer(middleware=[Overruling()])
    seen = []
    consumer.listener(name="see")(seen.append)
    publisher.publish(EVENT)

    consumer.consume_event()

    assert seen == []
    assert len(dead_letters()) == 1


class Failing(Middleware):
    """Raises before or after what one of its hooks wraps, once."""

    def __init__(self, hook, when):
        self.hook = hook
        self.when = when
        self.failures_left = 1

    def _go(self, hook, call):
        if self.hook == hook and self.when == "before" and self.failures_left:
            self.failures_left -= 1
            raise ValueError("the hook is broken")
        result = call()
        if self.hook == hook and self.when == "after" and self.failures_left:
            self.failures_left -= 1
            raise ValueError("the hook is broken")
        return result

    def around_poll(self, queue, poll):
        return self._go("poll", poll)

    def around_delivery(self, delivery, process):
        return self._go("delivery", process)

    def around_listener(self, call, run):
        return self._go("listener", lambda: run(call))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("hook", ["delivery", "listener"])
def test_a_broken_hook_is_a_failed_attempt_and_loses_nothing(
    driver, clock, make_consumer, publisher, hook, when
):
    consumer = make_consumer(middleware=[Failing(hook, when)])
    seen = []
    consumer.listener(name="see")(seen.append)
    publisher.publish(EVENT)

    assert consumer.consume_event() == 1
    assert driver.measure_queue(consumer.queue).in_flight == 1
    clock.advance(10)
    assert consumer.consume_event() == 1

    assert seen == [EVENT]
    depth = driver.measure_queue(consumer.queue)
    assert (depth.visible, depth.in_flight) == (0, 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_broken_hook_around_a_poll_gives_back_what_was_received(driver, make_consumer, publisher, when):
    consumer = make_consumer(middleware=[Failing("poll", when)])
    seen = []
    consumer.listener(name="see")(seen.append)
    publisher.publish(EVENT)

    with pytest.raises(ValueError, match="the hook is broken"):
        consumer.consume_event()
    assert driver.measure_queue(consumer.queue).visible == 1
    consumer.consume_event()

    assert seen == [EVENT]


class Forgetful(Middleware):
    def around_delivery(self, delivery, process):
        process()


def test_a_hook_that_returns_nothing_is_a_failed_attempt_with_advice(make_consumer, publisher, caplog):
    consumer = make_consumer(middleware=[Forgetful()])
    consumer.listener(name="see")(lambda event: None)
    publisher.publish(EVENT)

    consumer.consume_event()

    assert "return the outcome of what it wraps" in caplog.text


@pytest.mark.parametrize("hook", ["poll", "delivery", "listener"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_broken_hook_leaks_no_slot_of_a_worker(store, hook, when):
    with InMemoryDriver() as driver:
        consumer = ExchangeMessageConsumer(
            "stock",
            "products",
            driver=driver,
            deduplication=store,
            queue=QueueOptions(wait_seconds=1),
            retry=RetryPolicy(backoff=lambda attempts: 0),
            middleware=[Failing(hook, when)],
        )
        done = threading.Semaphore(0)
        consumer.listener(name="done")(lambda event: done.release())
        worker = Worker(consumer, concurrency=1, grace_seconds=10)
        ExchangeMessagePublisher("products", driver).publish_batch([EVENT] * 5)
        worker.start()

        for _ in range(5):
            assert done.acquire(timeout=30)
        assert worker.stop(30)


class FailingAfterwards(Middleware):
    """Raises after each successful run of a listener."""

    def around_listener(self, call, run):
        run(call)
        raise ValueError("the hook is broken")


def test_a_hook_that_breaks_after_the_last_attempt_does_not_dead_letter_what_has_succeeded(
    driver, clock, make_consumer, publisher, dead_letters
):
    consumer = make_consumer(middleware=[FailingAfterwards()], max_attempts=1)
    seen = []
    consumer.listener(name="see")(seen.append)
    publisher.publish(EVENT)

    consumer.consume_event()
    clock.advance(10)
    consumer.consume_event()

    assert seen == [EVENT]
    assert dead_letters() == []
    depth = driver.measure_queue(consumer.queue)
    assert (depth.visible, depth.in_flight) == (0, 0)


def test_a_hook_around_a_listener_is_called_for_runs_alone(clock, make_consumer, publisher):
    notes, failures = [], [ValueError()]
    consumer = make_consumer(middleware=[Noting("hook", notes)])
    consumer.listener(name="one")(lambda event: None)

    @consumer.listener(name="two")
    def fail_once(event):
        if failures:
            raise failures.pop()

    publisher.publish(EVENT, message_id="id-1")
    consumer.consume_event()
    clock.advance(10)
    consumer.consume_event()
    publisher.publish(EVENT, message_id="id-1")
    consumer.consume_event()

    runs = [note for note in notes if note.startswith("hook before") and " of ProductAdded" in note]
    assert runs == [
        "hook before one of ProductAdded",
        "hook before two of ProductAdded",
        "hook before two of ProductAdded",
    ]


class NamesItsParametersOtherwise(Middleware):
    def around_poll(self, the_queue, go_on):
        return go_on()

    def around_delivery(self, one, go_on):
        return go_on()

    def around_listener(self, this, go_on):
        return go_on(this)


def test_hooks_may_name_their_parameters_as_they_like(make_consumer, publisher):
    consumer = make_consumer(middleware=[NamesItsParametersOtherwise(), NamesItsParametersOtherwise()])
    seen = []
    consumer.listener(name="see")(seen.append)
    publisher.publish(EVENT)

    consumer.consume_event()

    assert seen == [EVENT]


@pytest.mark.parametrize(
    ("outcome", "what_is_left"),
    [
        (Acknowledge(), (0, 0, 0)),
        (Defer(5), (0, 1, 0)),
        (DeadLetter(None), (0, 0, 1)),
        (Leave(), (0, 1, 0)),
        (None, (0, 1, 0)),
        ("done", (0, 1, 0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["around_delivery", "around_listener"])
def test_a_hook_may_decide_anything_without_harm_to_the_neighbours(
    driver, make_consumer, publisher, dead_letters, place, outcome, what_is_left
):
    class Deciding(Middleware):
        pass

    def decide(self, one, go_on):
        delivery = one if place == "around_delivery" else one.delivery
        if delivery.message.message_id == "id-1":
            return outcome
        return go_on() if place == "around_delivery" else go_on(one)

    setattr(Deciding, place, decide)
    consumer = make_consumer(middleware=[Deciding()])
    seen = []
    consumer.listener(name="see")(lambda event, message_id: seen.append(message_id))
    for number in range(3):
        publisher.publish(EVENT, message_id=f"id-{number}")

    consumer.consume_event()

    assert seen == ["id-0", "id-2"]
    depth = driver.measure_queue(consumer.queue)
    assert (depth.visible, depth.in_flight, len(dead_letters())) == what_is_left


class Emptying(Middleware):
    """Does to the list of deliveries what it must not."""

    def around_poll(self, queue, poll):
        poll().clear()
        return []


def test_a_hook_cannot_lose_what_was_received(make_consumer, publisher):
    consumer = make_consumer(middleware=[Emptying()])
    seen = []
    consumer.listener(name="see")(seen.append)
    publisher.publish(EVENT)

    consumer.consume_event()

    assert seen == [EVENT]


class PollingTwice(Middleware):
    def around_poll(self, queue, poll):
        return [*poll(), *poll()]


def test_what_a_hook_received_in_two_polls_is_worked_on(make_consumer, publisher):
    consumer = make_consumer(middleware=[PollingTwice()])
    seen = []
    consumer.listener(name="see")(seen.append)
    publisher.publish_batch([EVENT] * 13)

    assert consumer.consume_event() == 13

    assert len(seen) == 13


class Swallowing(Middleware):
    """Lets nothing through for a while, as a switch for maintenance might."""

    polls = 0
    is_open = False

    def around_poll(self, queue, poll):
        self.polls += 1
        return poll() if self.is_open else []


def test_a_hook_that_swallows_polls_does_not_make_a_worker_spin(store):
    with InMemoryDriver() as driver:
        swallowing = Swallowing()
        consumer = ExchangeMessageConsumer(
            "stock", "products", driver=driver, deduplication=store, middleware=[swallowing]
        )
        done = threading.Event()
        consumer.listener(name="done")(lambda event: done.set())
        worker = Worker(consumer, grace_seconds=10)
        ExchangeMessagePublisher("products", driver).publish(EVENT)
        worker.start()

        threading.Event().wait(0.5)
        polls = swallowing.polls
        swallowing.is_open = True

        assert polls <= 50  # a loop that spins makes thousands
        assert done.wait(30)
        assert worker.stop(30)


class Leaving(Middleware):
    def around_poll(self, queue, poll):
        raise SystemExit


def test_a_hook_that_exits_ends_the_worker_with_1():
    with InMemoryDriver() as driver:
        consumer = ExchangeMessageConsumer("stock", "products", driver=driver, middleware=[Leaving()])
        consumer.listener(name="listener")(lambda event: None)

        assert Worker(consumer, grace_seconds=5).run() == 1
