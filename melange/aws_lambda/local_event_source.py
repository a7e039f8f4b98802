"""A function on this machine: what Lambda's event source mapping does, against any driver."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from melange.aws_lambda.lambda_handler import SQS, LambdaHandler
from melange.clock import Clock
from melange.consuming.consumer import ExchangeMessageConsumer
from melange.drivers.sqs_rules import attributes_of
from melange.errors import ConfigurationError, is_whole_number
from melange.messages import Delivery
from melange.signals import calling_on_signal
from melange.topology.checks import LAMBDA_VISIBILITY_FACTOR

logger = logging.getLogger(__name__)

BATCH_SIZE = 10
LONGEST_TIMEOUT_SECONDS = 900


class LocalEventSource:
    """Invokes a handler with the messages of its queues, as Lambda does, and deletes what it does not report as failed.

    For development against a local server, and for tests with a ``Harness``. Each queue needs the consumer's own
    permissions. Use it from one thread.
    """

    def __init__(self, handle: LambdaHandler, *, timeout_seconds: int = 30) -> None:
        """Prepare it; receive nothing yet.

        Args:
            handle: what ``handler(...)`` returned.
            timeout_seconds: the time of one invocation, in the context that the handler receives. Received messages are
                invisible to others for six times as long.

        Raises:
            ConfigurationError: ``handle`` is not a ``LambdaHandler``, or the time is not from 1 to 900 seconds.
        """
        if not isinstance(handle, LambdaHandler):
            raise ConfigurationError(f"a local event source takes what handler(...) returned, not {handle!r}")
        if not is_whole_number(timeout_seconds) or not 1 <= timeout_seconds <= LONGEST_TIMEOUT_SECONDS:
            raise ConfigurationError(f"timeout_seconds must be from 1 to 900, not {timeout_seconds!r}")
        self._handle = handle
        self._timeout_seconds = timeout_seconds

    def run(self) -> None:
        """Invoke the handler until SIGTERM or SIGINT, in the main thread; blocks.

        Raises: as the handler and the driver do.
        """
        stopping = threading.Event()
        names = ", ".join(consumer.queue.name for consumer in self._handle.consumers)
        logger.info("invoking the handler with the messages of %s", names)
        with calling_on_signal(stopping.set):
            while not stopping.is_set():
                self.poll(wait_seconds=1)

    def poll(self, wait_seconds: int = 0) -> int:
        """Poll each queue once, up to ten messages; invoke the handler; return the number of deleted messages.

        Blocks up to ``wait_seconds`` for each queue, and while the handler runs.

        Raises: as the handler and the driver do; the messages come back after their visibility timeout.
        """
        return sum(self._poll(consumer, wait_seconds) for consumer in self._handle.consumers)

    def _poll(self, consumer: ExchangeMessageConsumer, wait_seconds: int) -> int:
        driver = consumer.driver
        deliveries = driver.receive(
            consumer.queue,
            BATCH_SIZE,
            wait_seconds,
            visibility_timeout_seconds=LAMBDA_VISIBILITY_FACTOR * self._timeout_seconds,
        )
        if not deliveries:
            return 0
        event = {"Records": [_record_of(delivery, driver.prefix) for delivery in deliveries]}
        answer = self._handle(event, _LocalContext(driver.clock, self._timeout_seconds))
        failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
        handled = [delivery for delivery in deliveries if _id_of(delivery) not in failed]
        if handled:
            driver.acknowledge(handled)
        return len(handled)


class _LocalContext:
    """What the handler reads of the context."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(0, round(1000 * (self._end - self._clock.monotonic())))


def _id_of(delivery: Delivery) -> str:
    return delivery.broker_message_id or delivery.message.message_id


def _record_of(delivery: Delivery, prefix: str) -> dict[str, Any]:
    message = delivery.message
    system = {
        "ApproximateReceiveCount": str(delivery.receive_count),
        "MessageGroupId": message.message_group_id,
        "MessageDeduplicationId": message.message_deduplication_id,
    }
    return {
        "messageId": _id_of(delivery),
        "receiptHandle": delivery.receipt_handle,
        "body": message.body,
        "attributes": {name: value for name, value in system.items() if value is not None},
        "messageAttributes": _as_attributes(attributes_of(message)),
        "eventSource": SQS,
        "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{prefix}{delivery.queue.name}",
        "awsRegion": "us-east-1",
    }


def _as_attributes(values: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"dataType": "String", "stringValue": value} for name, value in values.items()}
