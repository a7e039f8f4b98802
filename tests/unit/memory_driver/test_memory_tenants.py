"""Standard queues with tenants: a noisy one does not hold up the others (SQS's fair queues)."""

from melange.messages import Message
from unit.memory_driver.given import bodies


def _send(driver, queue, tenant, *numbers):
    texts = [f"{tenant}-{number}" for number in numbers]
    driver.send(queue, [Message(f"id-of-{text}", text, message_group_id=tenant) for text in texts])


def _receive(driver, queue, count):
    return [delivery for _ in range(count // 10) for delivery in driver.receive(queue, 10, 0)]


def test_a_quiet_tenant_overtakes_a_noisy_one(driver):
    queue = driver.declare_queue("queue")
    _send(driver, queue, "noisy", *range(300))
    _receive(driver, queue, 100)
    _send(driver, queue, "quiet", 1)

    received = bodies(driver.receive(queue, 10, 0))

    assert received == ["quiet-1", *[f"noisy-{number}" for number in range(100, 109)]]


def test_a_message_without_a_tenant_overtakes_a_noisy_one(driver):
    queue = driver.declare_queue("queue")
    _send(driver, queue, "noisy", *range(100))
    _receive(driver, queue, 40)
    driver.send(queue, [Message("id", "of nobody")])

    assert bodies(driver.receive(queue, 1, 0)) == ["of nobody"]


def test_a_tenant_with_few_messages_in_flight_is_not_noisy(driver):
    queue = driver.declare_queue("queue")
    _send(driver, queue, "first", *range(100))
    _receive(driver, queue, 20)
    _send(driver, queue, "second", 1)

    assert bodies(driver.receive(queue, 1, 0)) == ["first-20"]


def test_a_tenant_with_a_small_share_of_what_is_in_flight_is_not_noisy(driver):
    queue = driver.declare_queue("queue")
    _send(driver, queue, "small", *range(30))
    for tenant in range(20):
        _send(driver, queue, f"other-{tenant}", *range(20))
    _receive(driver, queue, 430)
    _send(driver, queue, "small", "more")
    _send(driver, queue, "quiet", 1)

    assert bodies(driver.receive(queue, 2, 0)) == ["small-more", "quiet-1"]


def test_a_tenant_that_was_noisy_comes_first_again_once_its_messages_are_settled(driver):
    queue = driver.declare_queue("queue")
    _send(driver, queue, "noisy", *range(100))
    held = _receive(driver, queue, 40)
    _send(driver, queue, "quiet", 1, 2)
    assert bodies(driver.receive(queue, 1, 0)) == ["quiet-1"]

    driver.acknowledge(held[:20])
    driver.defer(held[20:], 0)

    assert bodies(driver.receive(queue, 2, 0)) == ["noisy-40", "noisy-41"]


def test_nothing_of_a_noisy_tenant_is_lost_or_comes_twice(driver):
    queue = driver.declare_queue("queue")
    _send(driver, queue, "noisy", *range(200))
    received = _receive(driver, queue, 60)
    _send(driver, queue, "quiet", *range(5))

    while deliveries := driver.receive(queue, 7, 0):
        received += deliveries
    assert driver.acknowledge(received) == []

    assert sorted(bodies(received)) == sorted(
        [f"noisy-{number}" for number in range(200)] + [f"quiet-{number}" for number in range(5)]
    )
    assert driver.measure_queue(queue).in_flight == 0
