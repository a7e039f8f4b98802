"""Policies of queues and keys: the statement that lets topics in, and what a policy lets a topic do.

A policy is judged as far as a program can judge it. A condition that is not understood counts as met in an Allow and as
not met in a Deny: the doubt is on the side of no alarm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from melange.drivers.aws.addresses import parse_arn
from melange.errors import ConfigurationError

STATEMENT_ID = "MelangeTopics"
MAX_POLICY_BYTES = 8_192
MAX_STATEMENTS = 20

_SNS = "sns.amazonaws.com"

NO_STATEMENT = "no statement of the queue's policy lets the topic in"
"""The problem that one more statement solves."""

_MATCHING = ("arnequals", "arnlike", "stringequals", "stringlike", "stringequalsignorecase")


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
    return [arn for one in _statements(policy_text) or () if _is_ours(one) for arn in _topics_of(one)]


def _statement(queue_arn: str, topic_arns: Iterable[str]) -> dict[str, Any]:
    arns = sorted(topic_arns)
    return topics_statement(queue_arn, arns, sorted({parse_arn(arn, "sns").account for arn in arns}))


def topics_statement(queue_arn: Any, topic_arns: Sequence[Any], accounts: Sequence[Any]) -> dict[str, Any]:
    """Return the statement of a queue's policy that lets these topics send; exports give references instead of ARNs."""
    return {
        "Sid": STATEMENT_ID,
        "Effect": "Allow",
        "Principal": {"Service": _SNS},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {
            "ArnEquals": {"aws:SourceArn": list(topic_arns)},
            "StringEquals": {"aws:SourceAccount": list(accounts)},
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


def _topics_of(statement: Mapping[str, Any] | None) -> list[str]:
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


def sending_problem(policy_text: str | None, queue_arn: str, topic_arn: str) -> str | None:
    """Return the reason why this queue policy does not let the topic send; None if it does."""
    statements = _statements(policy_text)
    if statements is None:
        return "the queue's policy is not JSON"
    context = {"aws:sourcearn": topic_arn, "aws:sourceaccount": topic_arn.split(":")[4]}
    matching = [
        one
        for one in statements
        if _names_sns(one)
        and _matches_any("sqs:sendmessage", (text.lower() for text in _texts(one.get("Action"))))
        and _matches_any(queue_arn, _texts(one.get("Resource", "*")))
    ]
    if any(one.get("Effect") == "Deny" and _is_met(one, context, in_doubt=False) for one in matching):
        return "a Deny statement of the queue's policy keeps the topic out"
    if any(one.get("Effect") == "Allow" and _is_met(one, context, in_doubt=True) for one in matching):
        return None
    return NO_STATEMENT


def key_policy_problem(policy_text: str | None) -> str | None:
    """Return the reason why this key policy does not let SNS use the key; None if it does."""
    statements = _statements(policy_text)
    if statements is None:
        return "the key's policy is not JSON"
    allowing = [one for one in statements if one.get("Effect") == "Allow" and _names_sns(one)]
    actions = [text.lower() for one in allowing for text in _texts(one.get("Action"))]
    missing = [
        action
        for action in ("kms:GenerateDataKey", "kms:Decrypt")
        if not _matches_any(action.lower(), actions)
    ]
    return f"the key's policy does not let {_SNS} use {' and '.join(missing)}" if missing else None


def _statements(policy_text: str | None) -> list[Mapping[str, Any]] | None:
    try:
        policy = json.loads(policy_text or "{}")
    except ValueError:
        return None
    found = policy.get("Statement", []) if isinstance(policy, dict) else []
    return [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, dict)]


def _names_sns(statement: Mapping[str, Any]) -> bool:
    principal = statement.get("Principal")
    if isinstance(principal, dict):
        return _SNS in _texts(principal.get("Service")) or "*" in _texts(principal.get("AWS"))
    return principal == "*"


def _is_met(statement: Mapping[str, Any], context: Mapping[str, str], *, in_doubt: bool) -> bool:
    return all(
        _condition_is_met(operator, key, values, context, in_doubt=in_doubt)
        for operator, key, values in _conditions(statement)
    )


def _conditions(statement: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    conditions = statement.get("Condition")
    for operator, keys in (conditions if isinstance(conditions, dict) else {}).items():
        for key, values in (keys if isinstance(keys, dict) else {}).items():
            yield (
                operator.lower().removeprefix("foranyvalue:").removesuffix("ifexists"),
                key.lower(),
                _texts(values),
            )


def _condition_is_met(
    operator: str, key: str, values: list[str], context: Mapping[str, str], *, in_doubt: bool
) -> bool:
    if key not in context or operator not in _MATCHING:
        return in_doubt
    return _matches_any(context[key], values)


def _matches_any(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern.replace("[", "[[]")) for pattern in patterns)


def _texts(value: object) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value]) if one is not None]
