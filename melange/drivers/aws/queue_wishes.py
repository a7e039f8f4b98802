"""What a caller wants of a queue, checked, and turned into the attributes that have to change. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from melange.drivers.aws.bindings import check_event_filter
from melange.drivers.base import UNCHANGED, EventFilter, Queue, Topic, Unchanged
from melange.drivers.limits import (
    FIFO_SUFFIX,
    MAX_RETENTION_SECONDS,
    MIN_RETENTION_SECONDS,
    check_queue_name,
    check_whole_seconds,
)
from melange.errors import ConfigurationError

Attributes = dict[str, str]

DEFAULT_MAX_RECEIVE_COUNT = 10
MAX_RECEIVE_COUNT = 1_000


@dataclass(frozen=True, slots=True)
class QueueWishes:
    """The arguments of ``declare_queue``."""

    name: str
    topics: Sequence[Topic]
    dead_letter_queue: Queue | None | Unchanged = UNCHANGED
    max_receive_count: int | None = None
    retention_seconds: int | None = None
    event_filter: EventFilter | None = None
    content_based_deduplication: bool | None = None
    tags: Mapping[str, str] | None = None

    @property
    def is_fifo(self) -> bool:
        return self.name.endswith(FIFO_SUFFIX)

    def check(self) -> None:
        """Raise ``ConfigurationError`` for what contradicts itself or what SQS would refuse."""
        check_queue_name(self.name)
        for topic in self.topics:
            if self.is_fifo and not topic.is_fifo:
                raise ConfigurationError(
                    f"the standard topic {topic.name!r} cannot feed the FIFO queue {self.name!r}: make both FIFO"
                )
        if self.content_based_deduplication and not self.is_fifo:
            raise ConfigurationError(
                f"content_based_deduplication= is for FIFO queues, and {self.name!r} is none: name it {self.name}.fifo"
            )
        if self.retention_seconds is not None:
            check_whole_seconds(
                "retention_seconds", self.retention_seconds, MIN_RETENTION_SECONDS, MAX_RETENTION_SECONDS
            )
        self._check_dead_letters()
        check_event_filter(self.event_filter)

    def changes(
        self, current: Attributes, dead_letter_arn: str | None, kms_master_key_id: str | None
    ) -> Attributes:
        """Return the attributes that differ from the ``current`` ones; {} stands for a queue to be made."""
        wanted: Attributes = {}
        if self.retention_seconds is not None:
            wanted["MessageRetentionPeriod"] = str(self.retention_seconds)
        if self.content_based_deduplication is not None and self.is_fifo:
            wanted["ContentBasedDeduplication"] = "true" if self.content_based_deduplication else "false"
        if kms_master_key_id:
            wanted["KmsMasterKeyId"] = kms_master_key_id
        redrive = self._redrive_policy(current.get("RedrivePolicy"), dead_letter_arn)
        if redrive is not None:
            wanted["RedrivePolicy"] = redrive
        return {name: value for name, value in wanted.items() if current.get(name, "") != value}

    def _check_dead_letters(self) -> None:
        if isinstance(self.dead_letter_queue, Queue) and self.dead_letter_queue.is_fifo != self.is_fifo:
            raise ConfigurationError(
                f"queue {self.name!r} and its dead-letter queue {self.dead_letter_queue.name!r} must both be "
                "FIFO or neither"
            )
        if self.max_receive_count is None:
            return
        if self.dead_letter_queue is None:
            raise ConfigurationError("max_receive_count= needs a dead_letter_queue=")
        if (
            not isinstance(self.max_receive_count, int)
            or not 1 <= self.max_receive_count <= MAX_RECEIVE_COUNT
        ):
            raise ConfigurationError(
                f"max_receive_count must be a whole number from 1 to {MAX_RECEIVE_COUNT:,}, "
                f"not {self.max_receive_count!r}"
            )

    def _redrive_policy(self, current_text: str | None, dead_letter_arn: str | None) -> str | None:
        """Return the redrive policy to set, ``""`` to take it off, None to leave it."""
        if self.dead_letter_queue is None:
            return ""
        current_arn, current_count = parse_redrive_policy(current_text)
        target = current_arn if self.dead_letter_queue is UNCHANGED else dead_letter_arn
        if target is None:
            if self.max_receive_count is None:
                return None
            raise ConfigurationError(
                f"queue {self.name!r} has no dead-letter queue yet: max_receive_count= needs dead_letter_queue="
            )
        count = self.max_receive_count or current_count or DEFAULT_MAX_RECEIVE_COUNT
        if (target, count) == (current_arn, current_count):
            return None
        return json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": str(count)})


def parse_redrive_policy(text: str | None) -> tuple[str | None, int | None]:
    """Return the ARN of the dead-letter queue and the receive count at which messages go there."""
    if not text:
        return None, None
    policy = json.loads(text)
    return policy["deadLetterTargetArn"], int(policy["maxReceiveCount"])
