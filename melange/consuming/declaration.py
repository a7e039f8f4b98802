"""Declares what a consumer needs: its queue, its dead-letter queue and its bindings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, slots=True)
class QueueDeclaration:
    """What a consumer asks its driver for.

    ``dead_letter_queue_name`` None means the default, ``<queue>-dlq``, which a queue gets when it is
    created and which an existing queue is not given; a name or NO_DEAD_LETTER_QUEUE is made so on an existing queue too.
    """

    queue_name: str
    topic_names: Sequence[str]
    dead_letter_queue_name: str | NoDeadLetterQueue | None
    max_attempts: int
    event_filter: EventFilter | None
    tags: Mapping[str, str] | None
    keeps_rejected: bool = False

    def declare(self, driver: MessagingDriver) -> Queue:
        """Create or complete the queue; idempotent, and safe from several processes at once."""
        topics = [find_topic(driver, name, declare=True) for name in self.topic_names]
        dead_letter_queue = self._declare_dead_letter_queue(driver)
        queue = driver.declare_queue(
            self.queue_name,
            *topics,
            dead_letter_queue=dead_letter_queue,
            max_receive_count=self.max_receive_count if isinstance(dead_letter_queue, Queue) else None,
            event_filter=self.event_filter,
            tags=self.tags,
        )
        self._warn(queue)
        return queue

    def look_up(self, driver: MessagingDriver) -> Queue:
        """Find what exists and create nothing.

        Raises:
            QueueNotFoundError: the queue or the dead-letter queue is missing.
            TopicNotFoundError: a topic is missing.
            ConfigurationError: something is asked for that only declaring can do.
        """
        if self.event_filter or self.tags:
            raise ConfigurationError("filter_events= and tags= need declare=True: looking up changes nothing")
        for name in self.topic_names:
            find_topic(driver, name, declare=False)
        queue = driver.get_queue(self.queue_name)
        if self.dead_letter_queue_name is NO_DEAD_LETTER_QUEUE:
            return replace(queue, dead_letter_queue=None)
        if isinstance(self.dead_letter_queue_name, str):
            queue = replace(queue, dead_letter_queue=driver.get_queue(self.dead_letter_queue_name))
        self._warn(queue)
        return queue

    @property
    def max_receive_count(self) -> int:
        """The broker's own limit: the safety net for messages that kill the process.

        Far above ours, since releases, kills and waiting count as receives too and must not dead-letter
        the healthy. Where rejected messages are to stay, it is the most that SQS knows.
        """
        return 1_000 if self.keeps_rejected else max(10, 4 * self.max_attempts)

    def _declare_dead_letter_queue(self, driver: MessagingDriver) -> Queue | NoDeadLetterQueue | None:
        name = self.dead_letter_queue_name
        if name is None:
            if _is_dead_letter_name(self.queue_name) or _exists(driver, self.queue_name):
                return None
            name = default_dead_letter_name(self.queue_name)
        if isinstance(name, NoDeadLetterQueue):
            return NO_DEAD_LETTER_QUEUE
        return driver.declare_queue(name, retention_seconds=DEAD_LETTER_RETENTION_SECONDS, tags=self.tags)

    def _warn(self, queue: Queue) -> None:
        if queue.dead_letter_queue is None:
            if self.dead_letter_queue_name is not NO_DEAD_LETTER_QUEUE and not _is_dead_letter_name(
                queue.name
            ):
                logger.warning(
                    "queue %s exists without a dead-letter queue: what is rejected stays in it; "
                    "name one with dead_letter_queue_name=, or say None",
                    queue.name,
                )
        elif queue.max_receive_count is not None and queue.max_receive_count <= self.max_attempts:
            logger.warning(
                "queue %s dead-letters after %d receives, before max_attempts=%d are made; %d or more is advised",
                queue.name,
                queue.max_receive_count,
                self.max_attempts,
                self.max_receive_count,
            )


def default_dead_letter_name(queue_name: str) -> str:
    """Return ``<queue>-dlq``, or ``<queue>-dlq.fifo`` for a FIFO queue."""
    if queue_name.endswith(FIFO_SUFFIX):
        return queue_name.removesuffix(FIFO_SUFFIX) + DEAD_LETTER_SUFFIX + FIFO_SUFFIX
    return queue_name + DEAD_LETTER_SUFFIX


def _is_dead_letter_name(queue_name: str) -> bool:
    return queue_name.removesuffix(FIFO_SUFFIX).endswith(DEAD_LETTER_SUFFIX)


def _exists(driver: MessagingDriver, queue_name: str) -> bool:
    try:
        driver.get_queue(queue_name)
    except QueueNotFoundError:
        return False
    return True
