"""The queues of replies, one for each requester, which says that it is in use: those of killed ones are removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from melange.drivers.base import BrokerAdministration, MessagingDriver
from melange.drivers.inspection import Inspectable
from melange.errors import ConfigurationError
from melange.messages import Queue

REPLY_QUEUE_PREFIX = "melange-reply-"
"""Replies are sent to queues of such names only: a request may come from a stranger."""
REPLY_QUEUE_TAG = "melange-reply-queue"
ALIVE_TAG = "melange-alive-at"

ALIVE_SECONDS = 600.0
"""How often a requester says that its reply queue is in use."""


def remove_abandoned_reply_queues(driver: MessagingDriver, *, older_than_seconds: float = 3_600) -> int:
    """Delete the reply queues of requesters that were killed; return their number.

    A requester confirms its queue every ten minutes. Run it once a day. On AWS it needs ``sqs:ListQueues``,
    ``sqs:ListQueueTags``, ``sqs:GetQueueAttributes`` and ``sqs:DeleteQueue``.

    Raises:
        ConfigurationError: the driver cannot list or delete queues, or the time is shorter than twenty minutes.
        DriverError: the broker is unavailable, or a permission is missing.
    """
    if not isinstance(driver, Inspectable) or not isinstance(driver, BrokerAdministration):
        raise ConfigurationError(f"{type(driver).__name__} cannot list and delete queues")
    if not older_than_seconds >= 2 * ALIVE_SECONDS:
        raise ConfigurationError(
            f"older_than_seconds must be at least {2 * ALIVE_SECONDS:g}, not {older_than_seconds!r}: queues in use are "
            f"confirmed every {ALIVE_SECONDS:g} s"
        )
    oldest = driver.clock.now() - timedelta(seconds=older_than_seconds)
    count = 0
    for queue in driver.inspection().tagged_queues(REPLY_QUEUE_TAG, "true"):
        alive_at = _time_in(queue.tags.get(ALIVE_TAG, ""))
        if alive_at is not None and alive_at < oldest and queue.name.startswith(REPLY_QUEUE_PREFIX):
            driver.delete_queue(Queue(queue.name, queue.address))
            count += 1
    return count


def tags_of_reply_queue(driver: MessagingDriver) -> dict[str, str]:
    """Return the tags of a reply queue that is in use now."""
    return {
        REPLY_QUEUE_TAG: "true",
        ALIVE_TAG: driver.clock.now().astimezone(UTC).isoformat(timespec="seconds"),
    }


def _time_in(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None
