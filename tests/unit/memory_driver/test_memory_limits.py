"""The in-memory driver refuses what SQS refuses, beyond what every driver does."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from melange.drivers.base import EventFilter
from melange.errors import (
    ConfigurationError,
    DriverError,
    QueueNotFoundError,
)
from melange.messages import Message
from unit.memory_driver.given import bodies, fifo_messages, messages, start_receive


@pytest.fixture
def _full_with_two(monkeypatch):
    monkeypatch.setattr("melange.engine.queue.MAX_IN_FLIGHT", 2)


@pytest.mark.usefixtures("_full_with_two")
def test_a_full_queue_hands_out_no_more_and_says_so(driver):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages("1", "2", "3", "4"))
    held = driver.receive(queue, 10, 0)
    assert bodies(held) == ["1", "2"]

    with pytest.raises(DriverError, match="in flight"):
        driver.receive(queue, 10, 0)
    driver.acknowledge(held[:1])

    assert bodies(driver.receive(queue, 10, 0)) == ["3"]


@pytest.mark.usefixtures("_full_with_two")
def test_a_full_fifo_queue_gives_nothing(driver):
    queue = driver.declare_queue("queue.fifo")
    for body in ("1", "2", "3"):
        driver.send(queue, fifo_messages(body, group=body))
    assert bodies(driver.receive(queue, 10, 0)) == ["1", "2"]

    assert driver.receive(queue, 10, 0) == []


@pytest.mark.usefixtures("_full_with_two")
def test_a_long_poll_of_a_full_queue_gives_nothing(driver, clock):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages("1", "2", "3"))
    driver.receive(queue, 10, 0)
    with ThreadPoolExecutor() as pool:
        receiver = start_receive(pool, driver, queue, wait_seconds=5)

        clock.advance(5)

        assert receiver.result() == []


def test_a_limit_above_ten_is_taken_as_ten(driver):
    queue = driver.declare_queue("queue")
    driver.send(queue, messages(*map(str, range(20))))

    assert len(driver.receive(queue, 20, 0)) == 10


def test_ten_receives_are_the_default_before_a_message_is_a_dead_letter(driver):
    queue = driver.declare_queue("queue", dead_letter_queue=driver.declare_queue("dead-letters"))

    assert queue.max_receive_count == 10


@pytest.mark.parametrize("count", [0, 1_001, 2.5, True])
def test_a_maximum_of_receives_out_of_bounds_is_refused(driver, count):
    dead_letters = driver.declare_queue("dead-letters")

    with pytest.raises(ConfigurationError, match="max_receive_count"):
        driver.declare_queue("queue", dead_letter_queue=dead_letters, max_receive_count=count)

    with pytest.raises(QueueNotFoundError):
        driver.get_queue("queue")


def test_a_queue_cannot_be_its_own_dead_letter_queue(driver):
    queue = driver.declare_queue("queue")

    with pytest.raises(ConfigurationError, match="own dead-letter queue"):
        driver.declare_queue("queue", dead_letter_queue=queue)


def test_more_than_150_event_types_are_refused_by_a_filter(driver):
    topic = driver.declare_topic("topic")
    names = tuple(f"Type{number}" for number in range(151))

    with pytest.raises(ConfigurationError, match="150"):
        driver.declare_queue("queue", topic, event_filter=EventFilter(names))


@pytest.mark.parametrize(
    "body",
    ["no JSON", "[" * 100_000, "5", '["Wanted"]', '{"event_type_name": ["Wanted"]}'],
    ids=["no JSON", "nested too deeply", "a number", "a list", "a list of types"],
)
def test_a_filter_by_body_holds_back_what_has_no_type(driver, body):
    topic = driver.declare_topic("topic")
    queue = driver.declare_queue("queue", topic, event_filter=EventFilter(("Wanted",), scope="body"))

    driver.publish(topic, [Message("id", body)])

    assert driver.receive(queue, 1, 0) == []
