"""One receive of SQS: what is asked, and its answer as deliveries."""

from __future__ import annotations

from functools import partial
from typing import Any

from melange.drivers.aws.calls import BrokerCalls
from melange.drivers.aws.operations import RECEIVE, RECEIVE_AT_ONCE
from melange.drivers.aws.wire import deliveries_from
from melange.drivers.aws.xray import TRACE_ATTRIBUTE
from melange.drivers.sqs_rules import MAX_BATCH
from melange.messages import Delivery, Queue, new_uuid

_SYSTEM_ATTRIBUTES = (
    "ApproximateReceiveCount",
    "MessageDeduplicationId",
    "MessageGroupId",
    "SentTimestamp",
    TRACE_ATTRIBUTE,
)


def receive_from(
    calls: BrokerCalls,
    queue: Queue,
    limit: int,
    wait_seconds: int,
    *,
    visibility_timeout_seconds: int,
    more_attributes: tuple[str, ...] = (),
) -> list[Delivery]:
    """Return at most ``limit`` deliveries. Blocks for ``wait_seconds`` at most, and the time of the call.

    ``more_attributes`` are system attributes for other readers of ``Delivery.received``.

    Raises:
        MelangeError: see ``BrokerCalls``.
    """
    # SQS repeats a lost answer for a request with the same id.
    attempt: dict[str, Any] = {"ReceiveRequestAttemptId": new_uuid()} if queue.is_fifo else {}
    asked_at = calls.clock.monotonic()
    deliveries: list[Delivery] = calls(
        RECEIVE if wait_seconds else RECEIVE_AT_ONCE,
        queue.name,
        read=partial(
            deliveries_from,
            queue=queue,
            asked_at=asked_at,
            visibility_timeout_seconds=visibility_timeout_seconds,
        ),
        QueueUrl=queue.address,
        MaxNumberOfMessages=min(limit, MAX_BATCH),
        WaitTimeSeconds=wait_seconds,
        VisibilityTimeout=visibility_timeout_seconds,
        MessageAttributeNames=("All",),
        MessageSystemAttributeNames=_SYSTEM_ATTRIBUTES + more_attributes,
        **attempt,
    )
    return deliveries
