"""A caller's wishes as the SQS attributes that have to change. Pure: dictionaries in, dictionaries out."""

from __future__ import annotations

import json

from melange.drivers.base import UNCHANGED
from melange.drivers.queue_wishes import DEFAULT_MAX_RECEIVE_COUNT, QueueWishes
from melange.errors import ConfigurationError

Attributes = dict[str, str]


def attributes_to_change(
    wishes: QueueWishes, current: Attributes, dead_letter_arn: str | None, kms_master_key_id: str | None
) -> Attributes:
    """Return the attributes that differ from the ``current`` ones; {} stands for a queue to be made.

    ``dead_letter_arn`` is that of the dead-letter queue in the wishes, if one is named.

    Raises:
        ConfigurationError: a receive count is named, and there is no dead-letter queue to go with it.
    """
    wanted: Attributes = {}
    if wishes.retention_seconds is not None:
        wanted["MessageRetentionPeriod"] = str(wishes.retention_seconds)
    if wishes.content_based_deduplication is not None and wishes.is_fifo:
        wanted["ContentBasedDeduplication"] = "true" if wishes.content_based_deduplication else "false"
    if kms_master_key_id:
        wanted["KmsMasterKeyId"] = kms_master_key_id
    redrive = _redrive_policy(wishes, current.get("RedrivePolicy"), dead_letter_arn)
    if redrive is not None:
        wanted["RedrivePolicy"] = redrive
    return {name: value for name, value in wanted.items() if current.get(name, "") != value}


def parse_redrive_policy(text: str | None) -> tuple[str | None, int | None]:
    """Return the ARN of the dead-letter queue and the receive count at which messages go there."""
    if not text:
        return None, None
    policy = json.loads(text)
    return policy["deadLetterTargetArn"], int(policy["maxReceiveCount"])


def _redrive_policy(wishes: QueueWishes, current_text: str | None, dead_letter_arn: str | None) -> str | None:
    """Return the redrive policy to set, ``""`` to take it off, None to leave it."""
    if wishes.dead_letter_queue is None:
        return ""
    current_arn, current_count = parse_redrive_policy(current_text)
    target = current_arn if wishes.dead_letter_queue is UNCHANGED else dead_letter_arn
    if target is None:
        if wishes.max_receive_count is None:
            return None
        raise ConfigurationError(
            f"queue {wishes.name!r} has no dead-letter queue: max_receive_count= needs dead_letter_queue="
        )
    count = wishes.max_receive_count or current_count or DEFAULT_MAX_RECEIVE_COUNT
    if (target, count) == (current_arn, current_count):
        return None
    return json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": str(count)})
