"""Messages that no listener accepts: said once for each type, and counted."""

from __future__ import annotations

import json

import pytest

from melange import Worker
from melange.messages import Message
from waiting import eventually


def warnings_of(caplog) -> list[str]:
    return [one.getMessage() for one in caplog.records if "no listener accepts" in one.getMessage()]


def test_each_type_is_warned_of_once(make_consumer, publisher, caplog):
    consumer = make_consumer()
    consumer.listener("ProductAdded")(lambda event: None)
    for name in ("ProductAded", "ProductAded", "ProductAdded", "PriceChanged"):
        publisher.publish({"event_type_name": name})

    consumer.consume_event()

    said = warnings_of(caplog)
    assert len(said) == 2
    assert "ProductAded" in said[0]
    assert "PriceChanged" in said[1]


def test_a_worker_counts_them_in_its_health(driver, make_consumer, publisher):
    consumer = make_consumer()
    consumer.listener("ProductAdded")(lambda event: None)
    publisher.publish_batch([{"event_type_name": "ProductAded"}] * 12)
    worker = Worker(consumer, grace_seconds=5)
    worker.start()

    eventually(lambda: worker.health().queues[0].unhandled == 12)
    eventually(lambda: driver.measure_queue(consumer.queue).in_flight == 0)
    worker.stop()

    assert driver.measure_queue(driver.get_queue("stock-dlq")).visible == 0


def test_strangers_cannot_fill_the_log_or_the_memory_with_types(driver, make_consumer, caplog):
    consumer = make_consumer()
    consumer.listener("ProductAdded")(lambda event: None)
    types = [f"{number}\n{'x' * 10_000}" for number in range(150)]
    bodies = [json.dumps({"event_type_name": name}) for name in types]
    driver.send(consumer.queue, [Message(str(number), body) for number, body in enumerate(bodies)])

    while consumer.consume_event():
        pass

    said = warnings_of(caplog)
    assert len(said) == 100
    assert all(len(line) < 500 and "\n" not in line for line in said)


@pytest.mark.parametrize("filter_events", [(), []], ids=["tuple", "list"])
def test_no_types_take_a_filter_off(driver, make_consumer, publisher, filter_events):
    make_consumer(filter_events=["ProductAdded"])
    publisher.publish({"event_type_name": "PriceChanged"})
    assert driver.measure_queue(driver.get_queue("stock")).visible == 0

    make_consumer(filter_events=filter_events)
    publisher.publish({"event_type_name": "PriceChanged"})

    assert driver.measure_queue(driver.get_queue("stock")).visible == 1


def test_a_filter_that_is_not_mentioned_stays(driver, make_consumer, publisher):
    make_consumer(filter_events=["ProductAdded"])

    make_consumer()
    publisher.publish({"event_type_name": "PriceChanged"})

    assert driver.measure_queue(driver.get_queue("stock")).visible == 0
