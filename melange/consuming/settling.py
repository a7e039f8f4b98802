"""The only place that acknowledges, defers or rejects deliveries."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import NamedTuple

from melange.consuming.outcomes import Acknowledge, Leave, Outcome, Reject, Retry
from melange.drivers.base import MessagingDriver
from melange.errors import DriverError, Failure, InvalidMessageError, LeaseLostError
from melange.failpoints import fail_point
from melange.messages import DEAD_LETTER_HEADER, Delivery, Message, Queue

logger = logging.getLogger(__name__)

MAX_REASON_CHARACTERS = 1_000


class Settlement(NamedTuple):
    """How many messages are gone from their queue, and how many will come back as decided."""

    gone: int
    deferred: int


class Settler:
    """Carries outcomes out against the driver; thread-safe."""

    def __init__(
        self,
        driver: MessagingDriver,
        queue: Queue,
        backoff: Callable[[int], float],
        *,
        keeps_rejected: bool = False,
    ) -> None:
        self._driver = driver
        self._queue = queue
        self._backoff = backoff
        self._keeps_rejected = keeps_rejected

    def settle(self, outcomes: Sequence[tuple[Delivery, Outcome]]) -> Settlement:
        """Carry out the outcomes, in as few calls as the driver can.

        What the broker does not take is logged and left to redelivery.
        """
        acknowledged: list[Delivery] = []
        deferred: list[tuple[Delivery, float]] = []
        for delivery, outcome in outcomes:
            if isinstance(outcome, Acknowledge):
                acknowledged.append(delivery)
            elif isinstance(outcome, Retry):
                deferred.append((delivery, outcome.delay_seconds))
            elif isinstance(outcome, Leave) or self._driver.clock.monotonic() >= delivery.deadline:
                # A dead letter too would speak for somebody else, who may yet succeed.
                _log_lease_lost(delivery)
            elif self._set_aside(delivery, outcome):
                acknowledged.append(delivery)
            else:
                deferred.append((delivery, max(1.0, self._backoff(delivery.receive_count))))
        return Settlement(gone=self._acknowledge(acknowledged), deferred=self._defer(deferred))

    def release(self, deliveries: Sequence[Delivery]) -> int:
        """Give back deliveries that nobody has worked on, visible to others at once; return how many it were."""
        return self._defer([(delivery, 0) for delivery in deliveries])

    def _acknowledge(self, deliveries: Sequence[Delivery]) -> int:
        if not deliveries:
            return 0
        fail_point("before-acknowledge")
        failures = self._driver.acknowledge(deliveries)
        fail_point("after-acknowledge")
        _log_failures("acknowledged", failures)
        return len(deliveries) - len(failures)

    def _defer(self, deferrals: Sequence[tuple[Delivery, float]]) -> int:
        by_seconds: defaultdict[int, list[Delivery]] = defaultdict(list)
        for delivery, seconds in deferrals:
            by_seconds[min(math.ceil(seconds), self._driver.capabilities.max_visibility_seconds)].append(
                delivery
            )
        settled = 0
        for whole_seconds, deliveries in by_seconds.items():
            failures = self._driver.defer(deliveries, whole_seconds)
            _log_failures("deferred", failures)
            settled += len(deliveries) - len(failures)
        return settled

    def _set_aside(self, delivery: Delivery, outcome: Reject) -> bool:
        """Send the message to the dead-letter queue; only when that went well may it be acknowledged."""
        if self._keeps_rejected:
            _log_rejected(logging.ERROR, delivery, outcome, "it stays and blocks its group")
            return False
        dead_letter_queue = self._queue.dead_letter_queue
        if dead_letter_queue is None:
            _log_rejected(logging.ERROR, delivery, outcome, "it stays: the queue has no dead-letter queue")
            return False
        error = self._send_dead_letter(dead_letter_queue, delivery, outcome)
        if error is not None:
            _log_rejected(
                logging.ERROR, delivery, outcome, f"it stays: the dead-letter queue refused it: {error}"
            )
            return False
        _log_rejected(logging.WARNING, delivery, outcome, f"set aside in {dead_letter_queue.name}")
        return True

    def _send_dead_letter(
        self, dead_letter_queue: Queue, delivery: Delivery, outcome: Reject
    ) -> Exception | None:
        message = _with_fifo_ids(delivery) if dead_letter_queue.is_fifo else delivery.message
        explained = _explained(message, delivery, outcome, self._driver.clock.now().isoformat())
        try:
            try:
                failures = self._driver.send(dead_letter_queue, [explained])
            except InvalidMessageError:  # no room for the reason: better without it than not at all
                failures = self._driver.send(dead_letter_queue, [message])
        except DriverError as error:
            return error
        return failures[0].error if failures else None


def _explained(message: Message, delivery: Delivery, outcome: Reject, rejected_at: str) -> Message:
    reason = {
        "reason": outcome.reason[:MAX_REASON_CHARACTERS],
        "listener": outcome.listener_name,
        "queue": delivery.queue.name,
        "attempts": delivery.receive_count,
        "rejected_at": rejected_at,
    }
    headers = {**message.headers, DEAD_LETTER_HEADER: json.dumps(reason)}
    return message._replace(headers=MappingProxyType(headers))


def _with_fifo_ids(delivery: Delivery) -> Message:
    # The message id alone would not do: a message that was moved back to its queue and fails again within
    # five minutes would count as a duplicate, vanish from the dead letters, and then be acknowledged.
    message = delivery.message
    one_receipt = hashlib.sha256(f"{message.message_id} {delivery.receipt_handle}".encode())
    return message._replace(
        message_group_id=message.message_group_id or message.message_id,
        message_deduplication_id=one_receipt.hexdigest(),
    )


def _log_failures(what: str, failures: Sequence[Failure[Delivery]]) -> None:
    for failure in failures:
        if isinstance(failure.error, LeaseLostError):
            _log_lease_lost(failure.item)
        else:
            logger.error(
                "message %s could not be %s and will come back: %s",
                failure.item.message.message_id,
                what,
                failure.error,
                extra=_log_fields(failure.item),
            )


def _log_lease_lost(delivery: Delivery) -> None:
    logger.warning(
        "message %s took longer than its visibility timeout and is left to its next receiver",
        delivery.message.message_id,
        extra=_log_fields(delivery),
    )


def _log_rejected(level: int, delivery: Delivery, outcome: Reject, what: str) -> None:
    logger.log(
        level,
        "message %s was rejected (%s); %s",
        delivery.message.message_id,
        ascii(outcome.reason[:MAX_REASON_CHARACTERS]),
        what,
        extra=_log_fields(delivery),
    )


def _log_fields(delivery: Delivery) -> dict[str, object]:
    return {
        "message_id": delivery.message.message_id,
        "queue_name": delivery.queue.name,
        "receive_count": delivery.receive_count,
    }
