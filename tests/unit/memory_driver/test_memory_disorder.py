"""On request standard queues show what SQS does not promise: order, and that a message comes once."""

from collections import Counter

import pytest

from melange.drivers.memory import InMemoryDriver
from melange.errors import ConfigurationError
from melange.testing import ManualClock
from unit.memory_driver.given import bodies, fifo_messages, messages

TEXTS = [str(number) for number in range(1_000)]


def _received(texts=TEXTS, name="queue", **options):
    with InMemoryDriver(clock=ManualClock(), **options) as driver:
        queue = driver.declare_queue(name)
        for text in texts:
            driver.send(queue, fifo_messages(text) if queue.is_fifo else messages(text))
        received = []
        while deliveries := driver.receive(queue, 10, 0):
            received += deliveries
            assert driver.acknowledge(deliveries) == []
        return received


def test_without_being_asked_a_queue_keeps_the_order_and_delivers_once():
    assert bodies(_received(seed=7)) == TEXTS


def test_a_shuffled_queue_delivers_everything_once_and_out_of_order():
    received = bodies(_received(seed=7, shuffle=True))

    assert received != TEXTS
    assert sorted(received, key=int) == TEXTS


def test_some_messages_are_delivered_twice_with_the_same_broker_id():
    received = _received(seed=7, duplicates=0.05)

    counts = Counter((delivery.message.body, delivery.broker_message_id) for delivery in received)
    assert [body for body, _ in counts] == TEXTS
    assert set(counts.values()) == {1, 2}
    assert 20 < len(received) - len(TEXTS) < 100


def test_all_messages_can_be_delivered_twice():
    assert Counter(bodies(_received(duplicates=1))) == Counter(TEXTS * 2)


def test_the_same_seed_gives_the_same_disorder_and_another_seed_another():
    first, again, other = (bodies(_received(seed=seed, duplicates=0.05, shuffle=True)) for seed in (7, 7, 8))

    assert first == again
    assert first != other


def test_what_happens_in_one_queue_does_not_change_the_disorder_of_another():
    with InMemoryDriver(seed=7, duplicates=0.05, shuffle=True) as driver:
        queue, other = driver.declare_queue("queue"), driver.declare_queue("other")
        for text in TEXTS:
            driver.send(other, messages(text))
            driver.send(queue, messages(text))
        received = []
        while deliveries := driver.receive(queue, 10, 0):
            received += bodies(deliveries)
            driver.acknowledge(deliveries)

    assert received == bodies(_received(seed=7, duplicates=0.05, shuffle=True))


def test_what_comes_back_to_a_shuffled_queue_is_not_always_last():
    with InMemoryDriver(clock=ManualClock(), seed=7, shuffle=True) as driver:
        queue = driver.declare_queue("queue")
        driver.send(queue, messages(*TEXTS[:20]))
        places = set()
        for _ in range(20):
            (returned,) = driver.receive(queue, 1, 0)
            driver.defer([returned], 0)
            rest = driver.receive(queue, 10, 0) + driver.receive(queue, 10, 0)
            places.add(bodies(rest).index(returned.message.body))
            driver.defer(rest, 0)

    assert len(places) > 1


def test_a_fifo_queue_keeps_its_promises_all_the_same():
    assert bodies(_received(name="queue.fifo", seed=7, duplicates=1, shuffle=True)) == TEXTS


@pytest.mark.parametrize("duplicates", [-0.1, 1.1, "some", True, float("nan")])
def test_duplicates_that_are_no_share_are_refused(duplicates):
    with pytest.raises(ConfigurationError, match="duplicates"):
        InMemoryDriver(duplicates=duplicates)
