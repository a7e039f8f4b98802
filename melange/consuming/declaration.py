"""What a consumer declares on its driver: the queue, its bindings, its dead-letter queue."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from melange.consuming.listener import EventType
from melange.consuming.options import QueueOptions, RetryPolicy
from melange.consuming.subscriptions import resolve_event_types
from melange.deduplication.base import DeduplicationStore
from melange.drivers.base import (
    NO_DEAD_LETTER_QUEUE,
    EventFilter,
    MessagingDriver,
    NoDeadLetterQueue,
    find_topic,
)
from melange.errors import ConfigurationError, QueueNotFoundError
from melange.messages import Queue

logger = logging.getLogger(__name__)

FIFO_SUFFIX = ".fifo"
DEAD_LETTER_SUFFIX = "-dlq"
DEAD_LETTER_RETENTION_SECONDS = 14 * 24 * 3600

MOST_RECEIVES = 1_000
"""The highest ``maxReceiveCount`` that SQS knows."""
FEWEST_RECEIVES = 100
"""Where attempts are forgotten when a process dies: far above what deployments and waits add to the attempts, and still
an end for a poison message that kills every process."""


def declared_queue(
    driver: MessagingDriver,
    queue_name: str,
    topic_names: Sequence[str],
    filter_events: Sequence[EventType] | None,
    options: QueueOptions,
    retry: RetryPolicy,
    store: DeduplicationStore | None,
) -> Queue:
    """Return the queue with its dead-letter queue: created or completed, or only looked up with ``declare=False``.

    Raises:
        ConfigurationError: something is asked for that the driver does not offer, or that only declaring can do.
        QueueNotFoundError, TopicNotFoundError: with ``declare=False``, something is missing.
    """
    _check_capabilities(driver, queue_name, filter_events, options)
    event_filter = _event_filter(filter_events, options)
    if options.declare and not is_address(queue_name):
        wanted = _wanted_receives(queue_name, options, retry, store)
        queue = _declare(driver, queue_name, topic_names, event_filter, options, wanted)
    else:
        queue = _look_up(driver, queue_name, topic_names, event_filter, options)
    _warn(queue, options, retry)
    return queue


def is_address(queue_name: str) -> bool:
    """Return whether it is an ARN or a URL rather than a name: it means an existing queue."""
    return queue_name.startswith(("arn:", "http://", "https://"))


def _wanted_receives(
    queue_name: str, options: QueueOptions, retry: RetryPolicy, store: DeduplicationStore | None
) -> int:
    """Return the broker's own limit of receives: the net for messages that kill the process before it can count.

    Far above the attempts, since deployments, waits and kills of neighbours count as receives too and must not
    dead-letter healthy messages: as high as can be where attempts are known to outlive the process, where rejected
    messages are to stay, and on FIFO, where those behind a failing message are received again with it.
    """
    is_kept = options.on_reject == "block" or (store is not None and store.outlives_process)
    if is_kept or queue_name.endswith(FIFO_SUFFIX):
        return MOST_RECEIVES
    return min(MOST_RECEIVES, max(FEWEST_RECEIVES, 4 * retry.max_attempts))


def _declare(
    driver: MessagingDriver,
    queue_name: str,
    topic_names: Sequence[str],
    event_filter: EventFilter | None,
    options: QueueOptions,
    wanted_receives: int,
) -> Queue:
    topics = [find_topic(driver, name, declare=True) for name in topic_names]
    existing = _existing(driver, queue_name)
    dead_letter_queue: Queue | NoDeadLetterQueue | None = None
    max_receive_count: int | None = None
    name = options.dead_letter_queue_name
    if isinstance(name, NoDeadLetterQueue):
        dead_letter_queue = NO_DEAD_LETTER_QUEUE
    elif name is not None or (existing is None and not _is_dead_letter_name(queue_name)):
        # Only a new queue is given one unasked: an existing one may be without on purpose.
        dead_letter_queue = driver.declare_queue(
            name or default_dead_letter_name(queue_name),
            retention_seconds=DEAD_LETTER_RETENTION_SECONDS,
            tags=options.tags,
        )
        max_receive_count = wanted_receives
    elif existing is not None and existing.dead_letter_queue is not None:
        current = existing.max_receive_count or 0
        max_receive_count = wanted_receives if current < wanted_receives else None
    return driver.declare_queue(
        queue_name,
        *topics,
        dead_letter_queue=dead_letter_queue,
        max_receive_count=max_receive_count,
        event_filter=event_filter,
        tags=options.tags,
    )


def _look_up(
    driver: MessagingDriver,
    queue_name: str,
    topic_names: Sequence[str],
    event_filter: EventFilter | None,
    options: QueueOptions,
) -> Queue:
    if event_filter or options.tags:
        raise ConfigurationError(
            "filter_events= and tags= change the queue: they need declare=True and the queue's name"
        )
    for name in topic_names:
        find_topic(driver, name, declare=False)
    queue = driver.get_queue(queue_name)
    if options.dead_letter_queue_name is NO_DEAD_LETTER_QUEUE:
        return replace(queue, dead_letter_queue=None)
    if isinstance(options.dead_letter_queue_name, str):
        return replace(queue, dead_letter_queue=driver.get_queue(options.dead_letter_queue_name))
    return queue


def _warn(queue: Queue, options: QueueOptions, retry: RetryPolicy) -> None:
    if queue.dead_letter_queue is None:
        if options.dead_letter_queue_name is not NO_DEAD_LETTER_QUEUE and not _is_dead_letter_name(
            queue.name
        ):
            logger.warning(
                "queue %s exists without a dead-letter queue: what is rejected stays in it. Name one with "
                "dead_letter_queue_name=, or say NO_DEAD_LETTER_QUEUE",
                queue.name,
            )
    elif queue.max_receive_count is not None and queue.max_receive_count <= retry.max_attempts:
        logger.warning(
            "the broker dead-letters messages of queue %s after %d receives, before max_attempts=%d are made: raise the "
            "queue's maxReceiveCount to %d or more",
            queue.name,
            queue.max_receive_count,
            retry.max_attempts,
            min(MOST_RECEIVES, max(FEWEST_RECEIVES, 4 * retry.max_attempts)),
        )


def _check_capabilities(
    driver: MessagingDriver,
    queue_name: str,
    filter_events: Sequence[EventType] | None,
    options: QueueOptions,
) -> None:
    """Raise ``ConfigurationError`` for what the driver's broker does not offer."""
    capabilities = driver.capabilities
    name = type(driver).__name__
    if queue_name.endswith(FIFO_SUFFIX) and not capabilities.fifo:
        raise ConfigurationError(f"{name} has no FIFO queues: {queue_name!r} cannot keep an order")
    if filter_events and not capabilities.event_filters:
        raise ConfigurationError(
            f"{name} has no filters: leave filter_events= out, listeners choose by type"
        )
    if isinstance(options.dead_letter_queue_name, str) and not capabilities.dead_letter_queues:
        raise ConfigurationError(f"{name} has no dead-letter queues: leave dead_letter_queue_name= out")


def _event_filter(filter_events: Sequence[EventType] | None, options: QueueOptions) -> EventFilter | None:
    if filter_events is None:
        return None
    names, _ = resolve_event_types("filter_events", filter_events)
    return EventFilter(tuple(sorted(names)), options.filter_scope)


def default_dead_letter_name(queue_name: str) -> str:
    """Return ``<queue>-dlq``, or ``<queue>-dlq.fifo`` for a FIFO queue."""
    if queue_name.endswith(FIFO_SUFFIX):
        return queue_name.removesuffix(FIFO_SUFFIX) + DEAD_LETTER_SUFFIX + FIFO_SUFFIX
    return queue_name + DEAD_LETTER_SUFFIX


def _is_dead_letter_name(queue_name: str) -> bool:
    return queue_name.removesuffix(FIFO_SUFFIX).endswith(DEAD_LETTER_SUFFIX)


def _existing(driver: MessagingDriver, queue_name: str) -> Queue | None:
    try:
        return driver.get_queue(queue_name)
    except QueueNotFoundError:
        return None
