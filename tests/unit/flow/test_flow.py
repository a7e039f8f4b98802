"""Flow control of a consumer: pauses, rate limits and circuit breakers. Over a limit nothing is received."""

import threading

import pytest

from melange import (
    ConfigurationError,
    ExchangeMessageConsumer,
    QueueMessagePublisher,
    QueueOptions,
    Reject,
    Retry,
    RetryPolicy,
    Worker,
)
from melange.consuming.gates import Gate, Gates
from melange.drivers.memory import InMemoryDriver
from melange.flow import CircuitBreaker, RateLimit
from waiting import eventually
from watched_driver import WatchedDriver

NO_WAIT = QueueOptions(wait_seconds=0)
SLOW_RETRY = RetryPolicy(backoff=lambda attempt: 1_000)


@pytest.fixture
def driver(clock):
    with InMemoryDriver(clock=clock) as driver:
        yield driver


@pytest.fixture
def consumer_with(driver):
    """Return a consumer with these gates, and the list of numbers that its listener has seen."""

    def make(*flow: Gate, fails=lambda number: None, retry=SLOW_RETRY):
        consumer = ExchangeMessageConsumer("work", driver=driver, queue=NO_WAIT, flow=flow, retry=retry)
        seen = []

        @consumer.listener("Work", name="work")
        def work(event):
            seen.append(event["number"])
            error = fails(event["number"])
            if error is not None:
                raise error

        return consumer, seen

    return make


@pytest.fixture
def send(driver):
    def send_numbers(count: int) -> None:
        publisher = QueueMessagePublisher("work", driver)
        for number in range(count):
            publisher.send({"number": number}, "Work")

    return send_numbers


def receive_counts(driver) -> set[int]:
    """Return the receive counts of the messages in the queue, before this look."""
    queue, counts = driver.get_queue("work"), set()
    while deliveries := driver.receive(queue, 10, 0):
        counts |= {delivery.receive_count - 1 for delivery in deliveries}
    return counts


class TestPausing:
    def test_a_paused_consumer_receives_nothing_and_goes_on_when_resumed(
        self, driver, consumer_with, send
    ) -> None:
        consumer, seen = consumer_with()
        send(1)
        consumer.pause()
        assert consumer.consume_event() == 0
        assert driver.measure_queue(consumer.queue).visible == 1

        consumer.resume()

        assert consumer.consume_event() == 1
        assert seen == [0]

    def test_a_paused_worker_stays_ready_and_says_so(self) -> None:
        with WatchedDriver() as driver:
            consumer = ExchangeMessageConsumer("work", driver=driver, queue=QueueOptions(wait_seconds=1))
            seen = []
            consumer.listener("Work", name="work")(lambda event: seen.append(event["number"]))
            worker = Worker(consumer)
            worker.start()
            eventually(lambda: driver.open_polls)
            worker.pause()
            eventually(lambda: not driver.open_polls and worker.health().ready)
            QueueMessagePublisher("work", driver).send({"number": 1}, "Work")
            assert worker.health().queues[0].flow == "paused"
            assert driver.measure_queue(consumer.queue).visible == 1

            worker.resume()

            eventually(lambda: seen == [1])
            assert worker.health().queues[0].flow == "open"
            assert worker.stop()


class FailingAfterThePoll(Gate):
    """Loses its store between the answer and the count."""

    has_failed = False

    def received(self, count: int) -> None:
        if count and not self.has_failed:
            self.has_failed = True
            raise ConnectionError("unavailable")


def test_a_gate_that_fails_after_a_poll_releases_what_was_received(driver, consumer_with, send) -> None:
    consumer, seen = consumer_with(FailingAfterThePoll())
    send(2)

    with pytest.raises(ConnectionError):
        consumer.consume_event()

    assert driver.measure_queue(consumer.queue).visible == 2
    assert consumer.consume_event() == 2
    assert sorted(seen) == [0, 1]


class TestRateLimit:
    def test_over_the_limit_nothing_is_received(self, driver, consumer_with, send) -> None:
        consumer, _ = consumer_with(RateLimit(10, burst=20))
        send(50)

        polls = [consumer.consume_event() for _ in range(5)]

        assert polls == [10, 10, 0, 0, 0]
        assert consumer.gates.state == "limited"
        assert receive_counts(driver) == {0}

    def test_it_fills_up_with_time(self, clock, consumer_with, send) -> None:
        consumer, seen = consumer_with(RateLimit(10, burst=10))
        send(100)
        for _ in range(60):
            consumer.consume_event()
            clock.advance(0.1)

        assert 60 <= len(seen) <= 70

    def test_a_slow_rate_is_kept_on_average(self, clock, consumer_with, send) -> None:
        consumer, seen = consumer_with(RateLimit(0.5))
        send(20)
        for _ in range(40):
            consumer.consume_event()
            clock.advance(1)

        assert len(seen) in range(19, 22)

    def test_runs_of_one_listener_can_be_limited(self, clock, driver, send) -> None:
        limit = RateLimit(1, burst=1, listener="bank")
        consumer = ExchangeMessageConsumer("work", driver=driver, queue=NO_WAIT, flow=[limit])
        ran = []
        consumer.listener("Work", name="bank")(lambda event: ran.append(event["number"]))
        consumer.listener("Other", name="mail")(lambda event: ran.append("mail"))
        publisher = QueueMessagePublisher("work", driver)
        for _ in range(3):
            publisher.send({}, "Other")
            consumer.consume_event()
        assert ran == ["mail", "mail", "mail"]
        send(2)

        assert [consumer.consume_event() for _ in range(3)] == [1, 0, 0]
        clock.advance(1)
        assert consumer.consume_event() == 1

    @pytest.mark.parametrize(
        "options", [{"per_second": 0}, {"per_second": -1}, {"per_second": 1, "burst": 0.5}]
    )
    def test_numbers_out_of_bounds_are_refused(self, options) -> None:
        with pytest.raises(ConfigurationError):
            RateLimit(**options)

    def test_one_for_two_consumers_is_refused(self, driver) -> None:
        limit = RateLimit(1)
        ExchangeMessageConsumer("work", driver=driver, flow=[limit])

        with pytest.raises(ConfigurationError, match="belongs to one consumer"):
            ExchangeMessageConsumer("other", driver=driver, flow=[limit])


class TestCircuitBreaker:
    def test_it_breaks_when_most_runs_fail_alike_and_uses_up_no_attempts(
        self, driver, consumer_with, send
    ) -> None:
        consumer, _ = consumer_with(
            CircuitBreaker(window=10), fails=lambda number: ConnectionError("no answer")
        )
        send(50)

        polls = [consumer.consume_event() for _ in range(4)]

        assert polls == [10, 0, 0, 0]
        assert consumer.gates.state == "broken"
        assert receive_counts(driver) == {0}

    def test_it_probes_with_one_message_after_a_growing_pause(self, clock, consumer_with, send) -> None:
        breaker = CircuitBreaker(window=10, first_pause_seconds=5, longest_pause_seconds=15)
        consumer, seen = consumer_with(breaker, fails=lambda number: ConnectionError("no answer"))
        send(50)
        consumer.consume_event()

        pauses = []
        for _ in range(4):
            waited = 0
            while not consumer.consume_event():
                clock.advance(1)
                waited += 1
            pauses.append(waited)

        assert pauses == [5, 10, 15, 15]
        assert len(seen) == 14

    def test_it_goes_on_at_full_speed_when_a_probe_passes(self, clock, consumer_with, send) -> None:
        is_mended = False
        consumer, _ = consumer_with(
            CircuitBreaker(window=10),
            fails=lambda number: None if is_mended else ConnectionError("no answer"),
        )
        send(50)
        consumer.consume_event()
        is_mended = True
        clock.advance(5)

        assert [consumer.consume_event() for _ in range(3)] == [1, 10, 10]
        assert consumer.gates.state == "open"

    def test_healthy_runs_keep_it_closed(self, consumer_with, send) -> None:
        consumer, _ = consumer_with(
            CircuitBreaker(window=10), fails=lambda number: ConnectionError() if number % 2 else None
        )
        send(40)

        assert [consumer.consume_event() for _ in range(4)] == [10, 10, 10, 10]

    def test_different_failures_do_not_break_it(self, consumer_with, send) -> None:
        kinds = (ConnectionError, ValueError, KeyError)
        consumer, _ = consumer_with(CircuitBreaker(window=10), fails=lambda number: kinds[number % 3]("no"))
        send(40)

        assert [consumer.consume_event() for _ in range(4)] == [10, 10, 10, 10]

    @pytest.mark.parametrize("steering", [Reject("no"), Retry(1_000)])
    def test_decisions_of_a_listener_do_not_break_it(self, consumer_with, send, steering) -> None:
        consumer, _ = consumer_with(CircuitBreaker(window=10), fails=lambda number: steering)
        send(40)

        assert [consumer.consume_event() for _ in range(4)] == [10, 10, 10, 10]

    def test_a_probe_that_needs_no_run_is_followed_by_another(
        self, clock, consumer_with, driver, send
    ) -> None:
        fails = [True]
        consumer, _ = consumer_with(
            CircuitBreaker(window=10), fails=lambda number: ConnectionError() if fails[0] else None
        )
        send(10)
        consumer.consume_event()
        QueueMessagePublisher("work", driver).send({}, "Unknown")
        send(1)
        fails[0] = False
        clock.advance(5)

        assert [consumer.consume_event() for _ in range(2)] == [1, 1]
        assert consumer.gates.state == "open"

    def test_one_failing_listener_stops_the_others_behind_a_breaker(
        self, driver, consumer_with, send
    ) -> None:
        consumer, _ = consumer_with(
            CircuitBreaker(window=10), fails=lambda number: ConnectionError("no answer")
        )
        send(10)
        consumer.consume_event()
        mailed = []
        consumer.listener("Other", name="mail")(mailed.append)
        QueueMessagePublisher("work", driver).send({}, "Other")

        assert consumer.consume_event() == 0
        assert mailed == []

    @pytest.mark.parametrize(
        "options",
        [
            {"window": 1},
            {"share": 0},
            {"share": 1.5},
            {"first_pause_seconds": 0},
            {"longest_pause_seconds": 1},
        ],
    )
    def test_numbers_out_of_bounds_are_refused(self, options) -> None:
        with pytest.raises(ConfigurationError):
            CircuitBreaker(**options)


def test_a_pause_that_meets_a_resume_holds_or_is_over() -> None:
    gates = Gates([])

    class MetByAPause(threading.Event):
        def clear(self) -> None:
            super().clear()
            pausing.start()
            pausing.join(0.1)

    pausing = threading.Thread(target=gates.pause)
    gates._is_paused = MetByAPause()
    gates.pause()
    gates.resume()
    pausing.join()

    assert gates.state == "paused"
    assert not gates.is_open


def test_something_else_than_gates_is_refused(driver) -> None:
    with pytest.raises(ConfigurationError, match="flow= takes a list of gates"):
        ExchangeMessageConsumer("work", driver=driver, flow=[50])


def test_a_worker_keeps_to_the_limit_and_stays_ready(clock, driver) -> None:
    limit = RateLimit(10, burst=10)
    consumer = ExchangeMessageConsumer("work", driver=driver, queue=NO_WAIT, flow=[limit])
    seen = []
    consumer.listener("Work", name="work")(seen.append)
    publisher = QueueMessagePublisher("work", driver)
    for number in range(30):
        publisher.send({"number": number}, "Work")
    worker = Worker(consumer)
    worker.start()
    eventually(lambda: worker.health().queues[0].flow == "limited" and len(seen) == 10)
    assert driver.measure_queue(consumer.queue).visible == 20

    clock.advance(1)

    eventually(lambda: len(seen) == 20)
    assert worker.health().ready
    assert driver.measure_queue(consumer.queue).visible == 10
    assert worker.stop()
