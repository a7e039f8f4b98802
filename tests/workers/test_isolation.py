"""Messages that may kill their process: each runs alone, with everything else settled."""

import threading

import pytest

from melange import MemoryDeduplicationStore, QueueOptions, RetryPolicy
from melange.consuming import poison_messages
from melange.consuming.poison_messages import MOST_ISOLATED
from melange.drivers.memory import InMemoryDriver
from melange.testing import ManualClock
from waiting import eventually
from watched_driver import WatchedDriver, consumer_of, left_in, send

DEADLINE_SECONDS = 30


def received_before(driver, queue, times, count=10):
    """Receive what is there as processes did that died."""
    for _ in range(times):
        driver.defer(driver.receive(queue, count, 0), 0)


class Watch:
    """A listener that writes down what else was at work and unsettled when it began."""

    def __init__(self, driver, seconds=0.02):
        self.driver = driver
        self.seconds = seconds
        self.at_work = 0
        self.most_at_work = 0
        self.seen = []
        self.alone = {}
        self._lock = threading.Lock()

    def __call__(self, event):
        number = event["number"]
        with self._lock:
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
            finished = set(self.seen)
        # What has finished is acknowledged: the driver has no more in flight than what has not.
        unsettled = sum(f"id-{one}" in self.driver.unsettled for one in finished)
        self.alone[number] = (self.at_work, unsettled)
        threading.Event().wait(self.seconds)
        with self._lock:
            self.at_work -= 1
            self.seen.append(number)


class Ledger(InMemoryDriver):
    """Knows the messages that were received and not yet settled; acknowledging takes a while."""

    def __init__(self, acknowledging_seconds=0.1):
        super().__init__()
        self.unsettled = set()
        self.acknowledging_seconds = acknowledging_seconds

    def receive(self, *args, **options):
        deliveries = super().receive(*args, **options)
        self.unsettled.update(delivery.message.message_id for delivery in deliveries)
        return deliveries

    def acknowledge(self, deliveries):
        threading.Event().wait(self.acknowledging_seconds)
        failures = super().acknowledge(deliveries)
        self.unsettled.difference_update(delivery.message.message_id for delivery in deliveries)
        return failures


@pytest.mark.parametrize("queue_name", ["stock", "stock.fifo"])
def test_suspects_run_with_nothing_else_at_work_and_everything_finished_acknowledged(running, queue_name):
    driver = Ledger()
    consumer = consumer_of(driver, queue_name, queue=QueueOptions(wait_seconds=0))
    watch = Watch(driver)
    consumer.listener(name="listener")(watch)
    send(driver, consumer.queue, 5, lambda number: f"{number}")
    received_before(driver, consumer.queue, 2)
    send(driver, consumer.queue, 20, lambda number: f"{number}", first=5)

    running(consumer, concurrency=8)
    eventually(lambda: left_in(driver, queue_name) == 0)

    assert sorted(watch.seen) == list(range(25))
    assert [watch.alone[number] for number in range(5)] == [(1, 0)] * 5
    assert watch.most_at_work > 1


def test_a_process_isolates_a_limited_number(running):
    driver = Ledger(acknowledging_seconds=0)
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=0))
    watch = Watch(driver)
    consumer.listener(name="listener")(watch)
    send(driver, consumer.queue, 150)
    for _ in range(2):
        taken = [driver.receive(consumer.queue, 10, 0) for _ in range(15)]
        for deliveries in taken:
            driver.defer(deliveries, 0)

    running(consumer, concurrency=8)
    eventually(lambda: left_in(driver) == 0)

    assert sorted(watch.seen) == list(range(150))
    assert watch.most_at_work > 1  # an outage, and not poison, raised so many counts
    assert sum(alone == (1, 0) for alone in watch.alone.values()) >= MOST_ISOLATED


def test_what_this_process_released_itself_is_not_a_suspect(running):
    driver = InMemoryDriver()
    consumer = consumer_of(
        driver, queue=QueueOptions(wait_seconds=0), retry=RetryPolicy(backoff=lambda attempts: 0.01)
    )
    names = []

    @consumer.listener(name="listener")
    def fail_three_times(event, receive_count):
        names.append(threading.current_thread().name)
        if receive_count <= 3:
            raise ValueError

    send(driver, consumer.queue, 1)
    running(consumer, concurrency=2)
    eventually(lambda: left_in(driver) == 0)

    assert len(names) == 4
    assert not any("alone" in name for name in names)


def test_a_suspect_that_hangs_stops_neither_the_worker_nor_the_other_suspects(running, monkeypatch):
    monkeypatch.setattr(poison_messages, "LONGEST_ALONE_SECONDS", 0.2)
    monkeypatch.setattr(poison_messages, "LONGEST_WAIT_FOR_OTHERS_SECONDS", 0.2)
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=0))
    gate, seen = threading.Event(), []

    @consumer.listener(name="listener")
    def hang_on_two(event):
        if event["number"] in (0, 1):
            gate.wait(DEADLINE_SECONDS)
        seen.append(event["number"])

    send(driver, consumer.queue, 6)
    received_before(driver, consumer.queue, 2)
    send(driver, consumer.queue, 10, first=6)
    worker = running(consumer, concurrency=4)  # of which two hang

    eventually(lambda: sorted(seen) == list(range(2, 16)))
    eventually(lambda: worker.health().queues[0].in_flight == 2)
    assert worker.health().longest_run_seconds > 0
    gate.set()
    eventually(lambda: left_in(driver) == 0)
    assert worker.stop(DEADLINE_SECONDS)


def test_a_listener_that_runs_for_long_delays_a_suspect_and_is_not_waited_for_again(running, monkeypatch):
    monkeypatch.setattr(poison_messages, "LONGEST_WAIT_FOR_OTHERS_SECONDS", 0.5)
    driver = InMemoryDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=0))
    begun, gate, seen = threading.Event(), threading.Event(), []

    @consumer.listener(name="listener")
    def listen(event):
        if event["number"] == 0:
            begun.set()
            gate.wait(DEADLINE_SECONDS)
        seen.append(event["number"])

    send(driver, consumer.queue, 1)
    running(consumer, concurrency=2)
    assert begun.wait(DEADLINE_SECONDS)
    queue = driver.declare_queue("stock")
    send(driver, queue, 1, first=1)
    eventually(lambda: seen == [1])
    gate.set()


def test_poison_among_healthy_messages_does_not_keep_them_all_from_running():
    """Each process dies at once when it runs the poison: the neighbours must get their turn in some of them."""
    driver = InMemoryDriver()
    queue = consumer_of(driver).queue
    send(driver, queue, 10)
    finished = set()
    for _ in range(60):
        consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=0))

        class Death(BaseException):
            pass

        @consumer.listener(name="listener")
        def listen(event, death=Death):
            if event["number"] == 0:
                raise death
            finished.add(event["number"])

        try:
            while consumer.consume_event():
                pass
        except Death:
            pass  # a process that dies releases nothing, this one has; the count of receives is the same
        if len(finished) == 9:
            break

    assert finished == set(range(1, 10))
    assert left_in(driver, "stock-dlq") == 0


def test_consume_event_runs_suspects_last_and_settles_each_alone():
    driver = WatchedDriver()
    consumer = consumer_of(driver, queue=QueueOptions(wait_seconds=0))
    seen = []
    consumer.listener(name="listener")(lambda event: seen.append((event["number"], driver.in_flight)))
    send(driver, consumer.queue, 3)
    received_before(driver, consumer.queue, 2)
    send(driver, consumer.queue, 4, first=3)

    assert consumer.consume_event() == 7

    assert [number for number, _ in seen[:4]] == [3, 4, 5, 6]
    assert sorted(number for number, _ in seen[4:]) == [0, 1, 2]
    assert [in_flight for _, in_flight in seen] == [7, 7, 7, 7, 3, 2, 1]


@pytest.mark.parametrize(("outlives_process", "received"), [(False, 1), (True, 5)])
def test_a_worker_that_starts_receives_no_followers_with_the_head_of_a_group(
    running, outlives_process, received
):
    """If the head kills the process, the broker's limit of receives must not dead-letter those behind it as well."""
    driver = WatchedDriver()
    store = MemoryDeduplicationStore()
    store.outlives_process = outlives_process
    consumer = consumer_of(driver, "stock.fifo", queue=QueueOptions(wait_seconds=1), deduplication=store)
    begun, gate = threading.Event(), threading.Event()

    @consumer.listener(name="listener")
    def wait(event):
        begun.set()
        gate.wait(DEADLINE_SECONDS)

    send(driver, consumer.queue, 5, lambda number: "a")
    running(consumer, concurrency=10)
    assert begun.wait(DEADLINE_SECONDS)

    assert driver.most_in_flight == received
    gate.set()


def test_a_worker_that_has_survived_a_visibility_timeout_receives_full_batches(running):
    clock = ManualClock()
    driver = InMemoryDriver(clock=clock)
    consumer = consumer_of(driver, "stock.fifo", queue=QueueOptions(wait_seconds=0))
    gate = threading.Event()
    consumer.listener(name="listener")(lambda event: gate.wait(DEADLINE_SECONDS))
    worker = running(consumer, concurrency=10)
    eventually(lambda: worker.health().ready)

    clock.advance(31)
    send(driver, consumer.queue, 5, lambda number: "a")

    eventually(lambda: worker.health().queues[0].in_flight == 5)
    gate.set()
