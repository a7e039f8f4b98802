"""The attributes of queues: their defaults, and what may be set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from melange.drivers.queue_spec import MAX_RECEIVE_COUNT
from melange.drivers.sqs_rules import (
    DEFAULT_RETENTION_SECONDS,
    MAX_DELAY_SECONDS,
    MAX_RETENTION_SECONDS,
    MAX_VISIBILITY_SECONDS,
    MAX_WAIT_SECONDS,
    MIN_RETENTION_SECONDS,
)
from melange.server.errors import ServiceError, invalid_value
from melange.server.policies import is_well_formed
from melange.server.sqs.messages import text_size

DEFAULTS = {
    "DelaySeconds": "0",
    "MaximumMessageSize": "1048576",
    "MessageRetentionPeriod": str(DEFAULT_RETENTION_SECONDS),
    "ReceiveMessageWaitTimeSeconds": "0",
    "SqsManagedSseEnabled": "true",
    "VisibilityTimeout": "30",
}
FIFO_DEFAULTS = {
    "ContentBasedDeduplication": "false",
    "DeduplicationScope": "queue",
    "FifoQueue": "true",
    "FifoThroughputLimit": "perQueue",
}
COMPUTED = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
    "QueueArn",
)

_RANGES = {
    "DelaySeconds": (0, MAX_DELAY_SECONDS),
    "KmsDataKeyReusePeriodSeconds": (60, 86_400),
    "MaximumMessageSize": (1_024, 1_048_576),
    "MessageRetentionPeriod": (MIN_RETENTION_SECONDS, MAX_RETENTION_SECONDS),
    "ReceiveMessageWaitTimeSeconds": (0, MAX_WAIT_SECONDS),
    "VisibilityTimeout": (0, MAX_VISIBILITY_SECONDS),
}
_CHOICES = {
    "ContentBasedDeduplication": ("true", "false"),
    "DeduplicationScope": ("queue", "messageGroup"),
    "FifoQueue": ("true", "false"),
    "FifoThroughputLimit": ("perQueue", "perMessageGroupId"),
    "SqsManagedSseEnabled": ("true", "false"),
}
_JSON = ("Policy", "RedrivePolicy", "RedriveAllowPolicy")
_NUMBER = re.compile(r"[0-9]{1,9}")
_MAX_POLICY_BYTES = 8_192
_MAX_SOURCES = 10

_REMOVABLE = frozenset({*_JSON, "KmsMasterKeyId"})
"""Attributes that an empty value removes."""

SETTABLE = frozenset({*_RANGES, *_CHOICES, *_REMOVABLE})


def check_names(names: list[str]) -> None:
    """Raise what SQS answers to names of attributes that it does not know, or only FIFO queues have."""
    for name in names:
        if name not in SETTABLE and name not in COMPUTED and name != "All":
            raise unknown_attribute(name)


def check_values(attributes: Mapping[str, str], *, is_fifo: bool) -> dict[str, str]:
    """Return the values as they are kept, or raise what SQS answers to them."""
    checked: dict[str, str] = {}
    for name, value in attributes.items():
        if name not in SETTABLE:
            raise unknown_attribute(name)
        if name in FIFO_DEFAULTS and not is_fifo:
            if name in {"DeduplicationScope", "FifoThroughputLimit"}:
                raise ServiceError(
                    "InvalidAttributeName", f"You can specify the {name} only when FifoQueue is set to true."
                )
            raise unknown_attribute(name)
        checked[name] = _check_value(name, value)
    return checked


def unknown_attribute(name: str) -> ServiceError:
    """Return SQS's error for an attribute that it does not know."""
    return ServiceError("InvalidAttributeName", f"Unknown Attribute {name}.")


def is_same(name: str, one: str | None, other: str) -> bool:
    """Return True if two values of an attribute mean the same."""
    if name in _JSON and one and other:
        same: bool = json.loads(one) == json.loads(other)
        return same
    return (one or "") == other


def _check_value(name: str, value: str) -> str:
    if name in _REMOVABLE and value == "":
        return value
    if name in _RANGES:
        lowest, highest = _RANGES[name]
        if not _NUMBER.fullmatch(value) or not lowest <= int(value) <= highest:
            raise _invalid(name)
        return str(int(value))
    if name in _CHOICES:
        chosen = next((choice for choice in _CHOICES[name] if choice.lower() == value.lower()), None)
        if chosen is None:
            raise _invalid(name)
        return chosen
    if name in _JSON:
        return _check_json(name, value)
    return value


def _check_json(name: str, value: str) -> str:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _invalid(name)
    if name == "RedrivePolicy":
        return _check_redrive_policy(value, document)
    if name == "Policy" and not is_well_formed(document):
        raise _invalid(name)
    if name == "RedriveAllowPolicy":
        _check_redrive_allow_policy(document)
    if text_size(value) > _MAX_POLICY_BYTES:
        raise _invalid(name, "Policy length exceeds the maximum of 8192 bytes.")
    return value


def _check_redrive_policy(value: str, document: dict[str, Any]) -> str:
    target, count = document.get("deadLetterTargetArn"), document.get("maxReceiveCount")
    if not isinstance(target, str) or not target:
        raise invalid_value(
            value,
            "RedrivePolicy",
            "Redrive policy does not contain mandatory attribute: deadLetterTargetArn.",
        )
    if count is None:
        raise invalid_value(
            value, "RedrivePolicy", "Redrive policy does not contain mandatory attribute: maxReceiveCount."
        )
    if isinstance(count, str) and _NUMBER.fullmatch(count):
        count = int(count)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_RECEIVE_COUNT:
        raise invalid_value(
            value,
            "RedrivePolicy",
            f"Invalid value for maxReceiveCount: {count}, valid values are from 1 to 1000.",
        )
    return json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": count}, separators=(",", ":"))


def _check_redrive_allow_policy(document: dict[str, Any]) -> None:
    permission, sources = document.get("redrivePermission"), document.get("sourceQueueArns")
    if permission not in ("allowAll", "denyAll", "byQueue"):
        raise _invalid("RedriveAllowPolicy", "redrivePermission must be allowAll, denyAll or byQueue.")
    if permission == "byQueue":
        if not isinstance(sources, list) or not 1 <= len(sources) <= _MAX_SOURCES:
            raise _invalid("RedriveAllowPolicy", "byQueue needs 1 to 10 sourceQueueArns.")
    elif sources is not None:
        raise _invalid("RedriveAllowPolicy", "sourceQueueArns needs the permission byQueue.")


def _invalid(name: str, reason: str = "") -> ServiceError:
    return ServiceError(
        "InvalidAttributeValue",
        f"Invalid value for the parameter {name}." + (f" Reason: {reason}" if reason else ""),
    )
