"""ARNs of topics and subscriptions, and what SNS answers to those that are none."""

from __future__ import annotations

import re

from melange.server.calls import Call
from melange.server.errors import ServiceError, invalid_parameter

_SUBSCRIPTION_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_PARTS = 6


def topic_arn(region: str, account: str, name: str) -> str:
    """Return the ARN of a topic."""
    return f"arn:aws:sns:{region}:{account}:{name}"


def check_topic_arn(call: Call, arn: str | None, parameter: str = "TopicArn") -> str:
    """Return the ARN, or raise what SNS answers to one that is malformed or of another region."""
    if arn is None:
        raise invalid_parameter(f"{parameter} Reason: no value for required parameter")
    parts = arn.split(":")
    if len(parts) < _PARTS:
        raise invalid_parameter(f"{parameter} Reason: An ARN must have at least 6 elements, not {len(parts)}")
    if parts[:3] != ["arn", "aws", "sns"] or parts[3] != call.region or len(parts) != _PARTS:
        raise invalid_parameter(parameter)
    return arn


def check_subscription_arn(arn: str | None) -> str:
    """Return the ARN, or raise what SNS answers to one that is malformed."""
    if not arn:
        raise invalid_parameter("SubscriptionArn Reason: no value for required parameter")
    parts = arn.split(":")
    if len(parts) < _PARTS:
        raise invalid_parameter(
            f"SubscriptionArn Reason: An ARN must have at least 6 elements, not {len(parts)}"
        )
    if not _SUBSCRIPTION_ID.fullmatch(parts[-1]) or len(parts) != _PARTS + 1:
        raise invalid_parameter("SubscriptionId")
    return arn


def no_such_topic() -> ServiceError:
    """Return SNS's error for a topic that does not exist."""
    return ServiceError("NotFound", "Topic does not exist", 404)
