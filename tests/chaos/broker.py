"""The judge's own way to the broker."""

from __future__ import annotations

from melange.drivers.aws import AwsDriver
from melange.messages import Queue


def driver_for(endpoint_url: str) -> AwsDriver:
    """Return a driver of melange's for a local server."""
    return AwsDriver(endpoint_url=endpoint_url, region_name="us-east-1")


def left_in(driver: AwsDriver, queue: Queue) -> int:
    """Return the number of messages in a queue, invisible ones included."""
    depth = driver.measure_queue(queue)
    return depth.visible + depth.in_flight + depth.delayed


def drained(driver: AwsDriver, queue: Queue) -> list[str]:
    """Empty a queue; return the ids of its messages, in the order in which they came."""
    found: list[str] = []
    while deliveries := driver.receive(queue, 10, 0):
        found += [delivery.message.message_id for delivery in deliveries]
        driver.acknowledge(deliveries)
    return found
