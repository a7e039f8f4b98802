"""What declaring has in common on every driver: the queue specification with its checks, and the prefix of names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from melange.drivers.base import NO_DEAD_LETTER_QUEUE, EventFilter, NoDeadLetterQueue
from melange.drivers.sqs_rules import (
    FIFO_SUFFIX,
    MAX_RETENTION_SECONDS,
    MIN_RETENTION_SECONDS,
    check_queue_name,
    check_whole_seconds,
)
from melange.errors import ConfigurationError
from melange.messages import Queue, Topic

DEFAULT_MAX_RECEIVE_COUNT = 10
MAX_RECEIVE_COUNT = 1_000
MAX_FILTER_VALUES = 150


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """The arguments of ``declare_queue``."""

    name: str
    topics: Sequence[Topic] = ()
    dead_letter_queue: Queue | NoDeadLetterQueue | None = None
    max_receive_count: int | None = None
    retention_seconds: int | None = None
    event_filter: EventFilter | None = None

    @property
    def is_fifo(self) -> bool:
        return self.name.endswith(FIFO_SUFFIX)

    def check(self) -> None:
        """Raise ``ConfigurationError`` for a contradiction, or for what SNS or SQS would refuse."""
        check_queue_name(self.name)
        self._check_topics()
        self._check_dead_letters()
        if self.retention_seconds is not None:
            check_whole_seconds(
                "retention_seconds", self.retention_seconds, MIN_RETENTION_SECONDS, MAX_RETENTION_SECONDS
            )

    def _check_topics(self) -> None:
        for topic in self.topics:
            if self.is_fifo and not topic.is_fifo:
                raise ConfigurationError(
                    f"the standard topic {topic.name!r} cannot feed the FIFO queue {self.name!r}: make both FIFO"
                )
        if self.event_filter is not None:
            count = len(set(self.event_filter.event_type_names))
            if count > MAX_FILTER_VALUES:
                raise ConfigurationError(
                    f"a filter names at most {MAX_FILTER_VALUES} event types, not {count}: leave it out to receive all"
                )

    def _check_dead_letters(self) -> None:
        target = self.dead_letter_queue
        if isinstance(target, Queue):
            if target.name == self.name:
                raise ConfigurationError(
                    f"queue {self.name!r} cannot be its own dead-letter queue: name another"
                )
            if target.is_fifo != self.is_fifo:
                raise ConfigurationError(
                    f"queue {self.name!r} and its dead-letter queue {target.name!r} must both be FIFO or neither"
                )
        count = self.max_receive_count
        if count is None:
            return
        if target is NO_DEAD_LETTER_QUEUE:
            raise ConfigurationError(
                "max_receive_count= needs a dead_letter_queue=: name one or leave both out"
            )
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_RECEIVE_COUNT:
            raise ConfigurationError(
                f"max_receive_count must be a whole number from 1 to {MAX_RECEIVE_COUNT:,}, not {count!r}"
            )


_PREFIX = re.compile(r"[A-Za-z0-9_-]{0,40}")
_ADDRESSES = ("arn:", "http://", "https://")


@dataclass(frozen=True, slots=True)
class NamePrefix:
    """Names with the prefix are the broker's; programs use those without it.

    Raises:
        ConfigurationError: the prefix has characters that names may not have.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not _PREFIX.fullmatch(self.text):
            raise ConfigurationError(
                f"prefix must be up to 40 letters, digits, hyphens and underscores, such as 'staging-', not {self.text!r}"
            )

    def add(self, name: str) -> str:
        """Return the broker's name; an ARN or a URL is left alone."""
        if isinstance(name, str) and not name.startswith(_ADDRESSES):
            return self.text + name
        return name

    def strip(self, name: str) -> str:
        """Return the program's name for the broker's; the name of something without the prefix is left alone."""
        return name.removeprefix(self.text)
