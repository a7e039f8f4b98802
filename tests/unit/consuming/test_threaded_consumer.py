"""The consumer that polls on a thread of its own."""

import inspect
import threading
import time

import pytest

from melange import (
    ConfigurationError,
    ExchangeMessageConsumer,
    ExchangeMessagePublisher,
    QueueOptions,
    ThreadedExchangeMessageConsumer,
)
from melange.consuming.threaded_consumer import ConsumerOptions
from melange.drivers.memory import InMemoryDriver
from watched_driver import UnreliableDriver

EVENT = {"event_type_name": "ProductAdded", "product_id": 1}
DEADLINE_SECONDS = 30


@pytest.fixture
def real_time_driver():
    with InMemoryDriver() as driver:
        yield driver


def make(driver, store, **options):
    return ThreadedExchangeMessageConsumer(
        "stock", "products", driver=driver, deduplication=store, queue=QueueOptions(wait_seconds=1), **options
    )


def test_events_are_processed_in_the_background(real_time_driver, store):
    consumer = make(real_time_driver, store)
    processed = threading.Event()
    threads = []

    @consumer.listener()
    def note(event):
        threads.append(threading.current_thread())
        processed.set()

    consumer.start()
    ExchangeMessagePublisher("products", real_time_driver).publish(EVENT)

    assert processed.wait(DEADLINE_SECONDS)
    assert consumer.shutdown(DEADLINE_SECONDS)
    assert threads[0] is not threading.current_thread()
    assert threads[0].daemon


def test_listeners_run_one_at_a_time_unless_asked_otherwise(real_time_driver, store):
    consumer = make(real_time_driver, store)
    at_work, most = [], []
    done = threading.Semaphore(0)

    @consumer.listener()
    def work(event):
        at_work.append(1)
        most.append(len(at_work))
        threading.Event().wait(0.01)
        at_work.pop()
        done.release()

    ExchangeMessagePublisher("products", real_time_driver).publish_batch([EVENT] * 10)
    consumer.start()

    for _ in range(10):
        assert done.acquire(timeout=DEADLINE_SECONDS)
    consumer.shutdown(DEADLINE_SECONDS)
    assert max(most) == 1


def test_starting_and_stopping_may_be_repeated(real_time_driver, store):
    consumer = make(real_time_driver, store)
    processed = threading.Semaphore(0)
    consumer.listener(name="count")(lambda event: processed.release())

    assert consumer.shutdown()
    for _ in range(2):
        consumer.start()
        consumer.start()
        ExchangeMessagePublisher("products", real_time_driver).publish(EVENT)
        assert processed.acquire(timeout=DEADLINE_SECONDS)
        assert consumer.shutdown(DEADLINE_SECONDS)
        assert consumer.shutdown(DEADLINE_SECONDS)

    assert not processed.acquire(blocking=False)


def test_it_can_be_started_again_while_a_listener_is_still_finishing(real_time_driver, store):
    consumer = make(real_time_driver, store)
    started, gate = threading.Semaphore(0), threading.Event()

    @consumer.listener(name="wait")
    def wait(event):
        started.release()
        gate.wait(DEADLINE_SECONDS)

    publisher = ExchangeMessagePublisher("products", real_time_driver)
    publisher.publish(EVENT)
    consumer.start()
    assert started.acquire(timeout=DEADLINE_SECONDS)
    assert not consumer.shutdown(0)

    consumer.start()
    publisher.publish(EVENT)

    assert started.acquire(timeout=DEADLINE_SECONDS)
    gate.set()
    assert consumer.shutdown(DEADLINE_SECONDS)


def test_without_a_listener_it_does_not_start(real_time_driver, store):
    with pytest.raises(ConfigurationError, match="subscribe a listener first"):
        make(real_time_driver, store).start()


def test_a_listener_can_stop_its_own_consumer(real_time_driver, store):
    consumer = make(real_time_driver, store)
    answers = []

    @consumer.listener()
    def stop(event):
        answers.append(consumer.shutdown())

    consumer.start()
    ExchangeMessagePublisher("products", real_time_driver).publish(EVENT)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (answers and consumer.shutdown(DEADLINE_SECONDS)):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)

    assert answers == [False]
    assert consumer.shutdown(DEADLINE_SECONDS)
    assert real_time_driver.measure_queue(consumer.queue).in_flight == 0


def test_it_survives_errors_and_says_so(store, caplog):
    with UnreliableDriver() as driver:
        consumer = make(driver, store)
        processed = threading.Event()
        consumer.listener(name="note")(lambda event: processed.set())
        consumer.start()

        ExchangeMessagePublisher("products", driver).publish(EVENT)

        assert processed.wait(DEADLINE_SECONDS)
        assert consumer.shutdown(DEADLINE_SECONDS)
    assert caplog.text.count("polling queue stock failed") == 3


def test_type_checkers_know_all_keywords_of_a_consumer():
    parameters = inspect.signature(ExchangeMessageConsumer).parameters.values()

    keywords = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}

    assert ConsumerOptions.__annotations__.keys() == keywords
