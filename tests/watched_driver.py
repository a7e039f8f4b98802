"""Drivers in memory: one writes down what is received and settled, and can be slow; one fails at first."""

import json
import threading
import time

from melange import DriverConnectionError, ExchangeMessageConsumer, Worker
from melange.drivers.memory import InMemoryDriver
from melange.messages import Message
from waiting import eventually


class WatchedDriver(InMemoryDriver):
    """Counts what is in flight as the broker sees it: received, and neither acknowledged nor released.

    ``is_patient`` has open polls go on when a worker stops, as those of SQS do.
    """

    def __init__(self, *, acknowledging_seconds=0.0, deferring_seconds=0.0, is_patient=False):
        super().__init__()
        self.acknowledging_seconds = acknowledging_seconds
        self.deferring_seconds = deferring_seconds
        self.is_patient = is_patient
        self.receives = []
        self.open_polls = 0
        self.released = {}
        self.most_in_flight = 0
        self._watched = set()
        self._watching = threading.Lock()

    @property
    def in_flight(self):
        return len(self._watched)

    def receive(self, queue, limit, wait_seconds, *, visibility_timeout_seconds=30):
        with self._watching:
            self.open_polls += 1
        try:
            deliveries = super().receive(
                queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
            )
        finally:
            with self._watching:
                self.open_polls -= 1
        with self._watching:
            self.receives.append((queue.name, time.monotonic(), deliveries))
            self._watched.update(delivery.receipt_handle for delivery in deliveries)
            self.most_in_flight = max(self.most_in_flight, len(self._watched))
        return deliveries

    def end_waits(self, queue):
        if not self.is_patient:
            super().end_waits(queue)

    def acknowledge(self, deliveries):
        threading.Event().wait(self.acknowledging_seconds)
        failures = super().acknowledge(deliveries)
        self._settled(deliveries)
        return failures

    def defer(self, deliveries, seconds):
        if seconds == 30:  # a renewal
            return super().defer(deliveries, seconds)
        threading.Event().wait(self.deferring_seconds)
        failures = super().defer(deliveries, seconds)
        self._settled(deliveries)
        for delivery in deliveries:
            self.released[delivery.message.message_id] = seconds
        return failures

    def _settled(self, deliveries):
        with self._watching:
            self._watched.difference_update(delivery.receipt_handle for delivery in deliveries)


class UnreliableDriver(InMemoryDriver):
    """Fails the first polls."""

    failures_left = 3

    def receive(self, queue, limit, wait_seconds, *, visibility_timeout_seconds=30):
        if self.failures_left:
            self.failures_left -= 1
            raise DriverConnectionError("out of reach")
        return super().receive(
            queue, limit, wait_seconds, visibility_timeout_seconds=visibility_timeout_seconds
        )


def consumer_of(driver, queue_name="stock", **options):
    return ExchangeMessageConsumer(queue_name, driver=driver, **options)


def send(driver, queue, count, group=lambda number: None, first=0):
    """Send messages ``id-0``, ``id-1`` ..., each in the group of its number."""
    for start in range(first, first + count, 500):
        driver.send(
            queue,
            [
                Message(
                    f"id-{number}",
                    json.dumps({"event_type_name": "Counted", "number": number}),
                    message_group_id=group(number),
                    message_deduplication_id=f"{number}" if queue.is_fifo else None,
                )
                for number in range(start, min(start + 500, first + count))
            ],
        )


def left_in(driver, queue_name="stock"):
    depth = driver.measure_queue(driver.get_queue(queue_name))
    return depth.visible + depth.in_flight + depth.delayed


def worker_on(*consumers, **options):
    return Worker(*consumers, **{"grace_seconds": 10, **options})


def begin_stop(worker):
    """Stop the worker; return as soon as no delivery begins any more, while listeners at work go on."""
    worker.stop(0)
    eventually(lambda: worker._shared.threads._closed)
