"""A rate limit in Redis is shared by all that use its name."""

import uuid

import pytest

from melange import DeduplicationError, ExchangeMessageConsumer, QueueMessagePublisher, QueueOptions
from melange.drivers.memory import InMemoryDriver
from melange.flow import RateLimit
from melange.flow.rate_limit import RedisBucket
from waiting import eventually


@pytest.fixture
def name():
    return f"limit-{uuid.uuid4()}"


def test_two_buckets_of_one_name_are_one(redis_url, name) -> None:
    first, second = (RedisBucket(redis_url, name, 0.001, 10) for _ in range(2))

    assert first.spend(7) == pytest.approx(3, abs=0.1)
    assert second.spend(7) == pytest.approx(-4, abs=0.1)
    assert RedisBucket(redis_url, f"{name}-other", 0.001, 10).spend(0) == 10


def test_it_fills_up_with_the_time_of_redis_and_never_above_its_burst(redis_url, name) -> None:
    bucket = RedisBucket(redis_url, name, 1_000, 5)
    bucket.spend(50)

    assert eventually(lambda: bucket.spend(0) == 5)


def test_two_consumers_share_the_limit(redis_url, name) -> None:
    seen = []
    drivers = [InMemoryDriver() for _ in range(2)]
    for driver in drivers:
        limit = RateLimit(0.001, burst=10, redis=redis_url, name=name)
        consumer = ExchangeMessageConsumer(
            "work", driver=driver, queue=QueueOptions(wait_seconds=0), flow=[limit]
        )
        consumer.listener("Work", name="work")(lambda event: seen.append(1))
        for _ in range(10):
            QueueMessagePublisher("work", driver).send({}, "Work")
        consumer.consume_event()

    assert len(seen) == 10


def test_while_redis_is_unavailable_nothing_is_received(redis_server, name) -> None:
    driver = InMemoryDriver()
    limit = RateLimit(10, redis=redis_server.url, name=name)
    consumer = ExchangeMessageConsumer(
        "work", driver=driver, queue=QueueOptions(wait_seconds=0), flow=[limit]
    )
    consumer.listener("Work", name="work")(print)
    QueueMessagePublisher("work", driver).send({}, "Work")
    redis_server.kill()

    with pytest.raises(DeduplicationError, match="can't ask the rate limit"):
        consumer.consume_event()

    assert driver.measure_queue(consumer.queue).visible == 1
