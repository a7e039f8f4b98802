"""The broker goes away and comes back: clear errors meanwhile, and no driver has to be made anew."""

from __future__ import annotations

import pytest
from botocore.config import Config

from melange.drivers.aws import AwsDriver
from melange.errors import DriverConnectionError
from melange.messages import Message
from services import ministack
from services.servers import free_port

QUICK_TO_GIVE_UP = Config(retries={"mode": "standard", "total_max_attempts": 2})


def test_a_driver_outlives_a_restart_of_its_broker():
    port = free_port()
    driver = AwsDriver(endpoint_url=f"http://127.0.0.1:{port}", config=QUICK_TO_GIVE_UP)

    with driver:
        with ministack.run(port):
            topic = driver.declare_topic("products")
            queue = driver.declare_queue("stock", topic)
            driver.publish(topic, [Message("before", "{}")])
            (delivery,) = driver.receive(queue, 1, 5)

        with pytest.raises(DriverConnectionError, match="sqs:ReceiveMessage on 'stock'"):
            driver.receive(queue, 1, 0)
        (unpublished,) = driver.publish(topic, [Message("during", "{}")])
        (unsettled,) = driver.acknowledge([delivery])

        with ministack.run(port):  # which remembers nothing
            driver.declare_queue("stock", driver.declare_topic("products"))
            failures = driver.publish(topic, [Message("after", "{}")])
            received = driver.receive(queue, 1, 5)

    assert isinstance(unpublished.error, DriverConnectionError)
    assert isinstance(unsettled.error, DriverConnectionError)
    assert failures == []
    assert [delivery.message.message_id for delivery in received] == ["after"]
