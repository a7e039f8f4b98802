"""The declaration of a consumer: its queue, bindings and dead-letter queue."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from melange.consuming.listener import EventType, resolve_event_types
from melange.consuming.options import QueueOptions
from melange.drivers.base import (
    NO_DEAD_LETTER_QUEUE,
    BrokerAdministration,
    EventFilter,
    MessagingDriver,
    NoDeadLetterQueue,
    find_topic,
)
from melange.drivers.sqs_rules import FIFO_SUFFIX
from melange.errors import ConfigurationError, DriverError, QueueNotFoundError
from melange.messages import Queue

logger = logging.getLogger(__name__)

DEAD_LETTER_SUFFIX = "-dlq"
DEAD_LETTER_RETENTION_SECONDS = 14 * 24 * 3600

MOST_RECEIVES = 1_000
"""The highest ``maxReceiveCount`` of SQS."""
FEWEST_RECEIVES = 100
"""For stores that do not outlive the process: far above the receives of deployments and waits, and still an end for a poison
message that kills every process."""


@dataclass(frozen=True, slots=True)
class QueueDeclaration:
    """The declaration of a queue; None for ``filter_events`` leaves an existing filter."""

    queue_name: str
    topic_names: Sequence[str]
    filter_events: Sequence[EventType] | None
    options: QueueOptions
    max_attempts: int
    outlives_process: bool
    """True if attempts survive the death of a process."""

    def queue(self, driver: MessagingDriver) -> Queue:
        """Return the queue with its dead-letter queue: created or completed, or only looked up with ``declare=False``.

        Idempotent, and safe from several processes at once.

        Raises:
            ConfigurationError: an option is not supported by the driver, or needs ``declare=True``.
            QueueNotFoundError, TopicNotFoundError: with ``declare=False``, something is missing.
        """
        self._check_capabilities(driver)
        declares = self.options.declare and not self.names_an_address
        queue = self._declare(driver) if declares else self._look_up(driver)
        self._warn(queue)
        return queue

    def undeclared(self) -> Queue:
        """Return a stand-in while declarations are only collected: no broker has this queue."""
        return Queue(self.queue_name, f"undeclared:{self.queue_name}", self.queue_name.endswith(FIFO_SUFFIX))

    @property
    def names_an_address(self) -> bool:
        """True for the ARN or URL of a queue, which must exist."""
        return self.queue_name.startswith(("arn:", "http://", "https://"))

    @property
    def default_dead_letter_queue_name(self) -> str | None:
        """The name of the dead-letter queue of a new queue; None if the queue is one itself."""
        return None if _is_dead_letter_name(self.queue_name) else default_dead_letter_name(self.queue_name)

    @property
    def event_filter(self) -> EventFilter | None:
        """The filter of all bindings; None leaves an existing one, and one without types takes it off."""
        if self.filter_events is None:
            return None
        names, _ = resolve_event_types("filter_events", self.filter_events)
        return EventFilter(tuple(sorted(names)), self.options.filter_scope)

    @property
    def wanted_receives(self) -> int:
        """The broker's own limit of receives: the last resort for messages that kill the process before it can count.

        It is far above the attempts, because deployments, waits and kills of neighbours also count as receives, and must
        not dead-letter healthy messages. It is the highest possible if attempts outlive the process, or if rejected
        messages stay.
        """
        if self.outlives_process or self.options.on_reject == "block":
            return MOST_RECEIVES
        return min(MOST_RECEIVES, max(FEWEST_RECEIVES, 4 * self.max_attempts))

    def _declare(self, driver: MessagingDriver) -> Queue:
        topics = [find_topic(driver, name, declare=True) for name in self.topic_names]
        existing = _existing(driver, self.queue_name)
        if existing is not None:
            self._report_surplus(driver, existing)
        dead_letter_queue: Queue | NoDeadLetterQueue | None = None
        max_receive_count: int | None = None
        name = self.options.dead_letter_queue_name
        if isinstance(name, NoDeadLetterQueue):
            dead_letter_queue = NO_DEAD_LETTER_QUEUE
        elif name is not None or (existing is None and not _is_dead_letter_name(self.queue_name)):
            # Only a new queue gets one by default: an existing queue may have none on purpose.
            dead_letter_queue = driver.declare_queue(
                name or default_dead_letter_name(self.queue_name),
                retention_seconds=DEAD_LETTER_RETENTION_SECONDS,
                tags=self.options.tags,
            )
            max_receive_count = self.wanted_receives
        elif existing is not None and existing.dead_letter_queue is not None:
            is_lower = (existing.max_receive_count or 0) < self.wanted_receives
            max_receive_count = self.wanted_receives if is_lower else None
        return driver.declare_queue(
            self.queue_name,
            *topics,
            dead_letter_queue=dead_letter_queue,
            max_receive_count=max_receive_count,
            event_filter=self.event_filter,
            tags=self.options.tags,
        )

    def _look_up(self, driver: MessagingDriver) -> Queue:
        if self.names_an_address and (self.filter_events is not None or self.options.tags):
            raise ConfigurationError(
                "filter_events= and tags= change the queue, and one given by its address is never changed: give its name"
            )
        for name in self.topic_names:
            find_topic(driver, name, declare=False)
        queue = driver.get_queue(self.queue_name)
        dead_letter_queue_name = self.options.dead_letter_queue_name
        if isinstance(dead_letter_queue_name, NoDeadLetterQueue):
            return replace(queue, dead_letter_queue=None)
        if dead_letter_queue_name is not None:
            return replace(queue, dead_letter_queue=driver.get_queue(dead_letter_queue_name))
        return queue

    def _report_surplus(self, driver: MessagingDriver, queue: Queue) -> None:
        """Warn of bindings and filters that the code does not name any more: they stay, and nothing else shows them."""
        if not isinstance(driver, BrokerAdministration):
            return
        try:
            bindings = driver.list_bindings(queue)
        except DriverError as error:  # a consumer's role need not include the permission
            logger.debug("the bindings of queue %s cannot be listed: %s", queue.name, error)
            return
        for binding in bindings:
            topic = binding.topic
            if topic.name not in self.topic_names and topic.address not in self.topic_names:
                logger.warning(
                    "topic %s still feeds queue %s, although this consumer does not name it: name it, or remove the "
                    "subscription",
                    topic.name,
                    queue.name,
                )
            elif binding.event_filter is not None and self.filter_events is None:
                logger.warning(
                    "topic %s passes only events of the types %s on to queue %s, although this consumer names no filter: "
                    "name it as filter_events=, or take it off with filter_events=()",
                    topic.name,
                    ", ".join(binding.event_filter.event_type_names),
                    queue.name,
                )

    def _check_capabilities(self, driver: MessagingDriver) -> None:
        """Raise ``ConfigurationError`` for options that the driver's broker does not support."""
        capabilities = driver.capabilities
        driver_name = type(driver).__name__
        if self.queue_name.endswith(FIFO_SUFFIX) and not capabilities.fifo:
            raise ConfigurationError(
                f"{driver_name} has no FIFO queues: {self.queue_name!r} cannot keep an order"
            )
        if self.filter_events and not capabilities.event_filters:
            raise ConfigurationError(
                f"{driver_name} has no filters: leave filter_events= out, listeners choose by type"
            )
        if isinstance(self.options.dead_letter_queue_name, str) and not capabilities.dead_letter_queues:
            raise ConfigurationError(
                f"{driver_name} has no dead-letter queues: leave dead_letter_queue_name= out"
            )

    def _warn(self, queue: Queue) -> None:
        if queue.dead_letter_queue is None:
            is_wanted = self.options.dead_letter_queue_name is not NO_DEAD_LETTER_QUEUE
            if is_wanted and not _is_dead_letter_name(queue.name):
                logger.warning(
                    "queue %s exists without a dead-letter queue: rejected messages stay in it. Name one with "
                    "dead_letter_queue_name=, or pass NO_DEAD_LETTER_QUEUE",
                    queue.name,
                )
        elif queue.max_receive_count is not None and queue.max_receive_count <= self.max_attempts:
            logger.warning(
                "the broker dead-letters messages of queue %s after %d receives, before max_attempts=%d are made: raise "
                "the queue's maxReceiveCount to %d or more",
                queue.name,
                queue.max_receive_count,
                self.max_attempts,
                self.wanted_receives,
            )


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
