"""What a resource policy lets a topic do, judged as far as a program can judge it.

A condition that is not understood counts as met in an Allow and as not met in a Deny: the doubt is on the side of no alarm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

SNS = "sns.amazonaws.com"

NO_STATEMENT = "no statement of the queue's policy lets the topic in"
"""The problem that one more statement solves."""

_MATCHING = ("arnequals", "arnlike", "stringequals", "stringlike", "stringequalsignorecase")


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
    return f"the key's policy does not let {SNS} use {' and '.join(missing)}" if missing else None


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
        return SNS in _texts(principal.get("Service")) or "*" in _texts(principal.get("AWS"))
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
