"""The queue's policy document: our statement beside the other ones. Text in, text out, no calls."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from melange.drivers.aws.addresses import parse_arn
from melange.errors import ConfigurationError

STATEMENT_ID = "MelangeTopics"
MAX_POLICY_BYTES = 8_192
MAX_STATEMENTS = 20


def allow_topics(policy_text: str | None, queue_arn: str, topic_arns: Iterable[str]) -> str | None:
    """Return the policy that allows these topics, and the earlier ones, to send to the queue.

    Return None if ``policy_text`` does so already. Other statements are not changed.

    Raises:
        ConfigurationError: the policy is not JSON, or would grow beyond what SQS allows.
    """
    policy: dict[str, Any] = _parse(policy_text, queue_arn) if policy_text else {"Version": "2012-10-17"}
    statements = _as_list(policy.get("Statement", []))
    current = next((one for one in statements if _is_ours(one)), None)
    wanted = _statement(queue_arn, {*_topics_of(current), *topic_arns})
    if current is not None and _canonical(current) == _canonical(wanted):
        return None
    policy["Statement"] = [one for one in statements if not _is_ours(one)] + [wanted]
    return _checked(policy, queue_arn)


def allowed_topics(policy_text: str | None) -> list[str]:
    """Return the ARNs of the topics that our statement allows."""
    try:
        statements = _as_list(json.loads(policy_text or "{}").get("Statement", []))
    except (ValueError, AttributeError):
        return []
    return [arn for one in statements if _is_ours(one) for arn in _topics_of(one)]


def _statement(queue_arn: str, topic_arns: Iterable[str]) -> dict[str, Any]:
    arns = sorted(topic_arns)
    return {
        "Sid": STATEMENT_ID,
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {
            "ArnEquals": {"aws:SourceArn": arns},
            "StringEquals": {"aws:SourceAccount": sorted({parse_arn(arn, "sns").account for arn in arns})},
        },
    }


def _parse(policy_text: str, queue_arn: str) -> dict[str, Any]:
    try:
        policy = json.loads(policy_text)
    except ValueError as error:
        raise ConfigurationError(f"the policy of {queue_arn} is not JSON; it was left alone") from error
    if not isinstance(policy, dict):
        raise ConfigurationError(f"the policy of {queue_arn} is not a JSON object; it was left alone")
    return policy


def _checked(policy: dict[str, Any], queue_arn: str) -> str:
    text = json.dumps(policy, separators=(",", ":"))
    if len(text.encode()) > MAX_POLICY_BYTES or len(policy["Statement"]) > MAX_STATEMENTS:
        raise ConfigurationError(
            f"the policy of {queue_arn} would have {len(text.encode()):,} bytes and "
            f"{len(policy['Statement'])} statements; SQS allows {MAX_POLICY_BYTES:,} and {MAX_STATEMENTS}: "
            "bind fewer topics to this queue"
        )
    return text


def _is_ours(statement: object) -> bool:
    return isinstance(statement, dict) and statement.get("Sid") == STATEMENT_ID


def _topics_of(statement: dict[str, Any] | None) -> list[str]:
    condition = (statement or {}).get("Condition")
    sources = condition.get("ArnEquals") if isinstance(condition, dict) else None
    arns = _as_list(sources.get("aws:SourceArn", [])) if isinstance(sources, dict) else []
    return [
        arn for arn in arns if isinstance(arn, str) and arn.split(":")[2:3] == ["sns"] and arn.count(":") == 5
    ]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _canonical(value: Any) -> Any:
    """Return a form that is the same for ``"x"`` and ``["x"]``, and for any order of a list."""
    if isinstance(value, dict):
        return {name: _canonical(part) for name, part in value.items()}
    return sorted(json.dumps(part, sort_keys=True) for part in _as_list(value))
