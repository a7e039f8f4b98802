"""Access policies of queues and topics, as far as they decide what SNS may send to a queue and which account may publish."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_MAX_KNOWN = 1_000
_SOURCE_KEYS = {"aws:sourcearn": "arn", "aws:sourceaccount": "account", "aws:sourceowner": "account"}


class Access(NamedTuple):
    """One thing that a principal wants to do. The source is the topic that a message comes from, or ""."""

    principal: str
    action: str
    resource: str
    source_arn: str = ""
    source_account: str = ""


class Policy:
    """A policy document; see
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html.
    """

    def __init__(self, statements: list[Mapping[str, Any]]) -> None:
        self._statements = statements
        self._known: dict[Access, frozenset[object]] = {}

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Return the policy of a JSON document that is well formed."""
        return cls(_as_list(json.loads(text).get("Statement")))

    def allows(self, access: Access) -> bool:
        """Return True if a statement allows the access and none denies it."""
        effects = self._effects(access)
        return "Allow" in effects and "Deny" not in effects

    def denies(self, access: Access) -> bool:
        """Return True if a statement denies the access."""
        return "Deny" in self._effects(access)

    def _effects(self, access: Access) -> frozenset[object]:
        # The same few accesses come again with each message.
        effects = self._known.get(access)
        if effects is None:
            effects = frozenset(
                str(statement.get("Effect")) for statement in self._statements if _applies(statement, access)
            )
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[access] = effects
        return effects


def is_well_formed(document: Mapping[str, Any]) -> bool:
    """Return True if the statements of a policy document are objects, and so are their conditions."""
    return all(
        isinstance(statement, dict)
        and isinstance(statement.get("Condition", {}), dict)
        and all(isinstance(conditions, dict) for conditions in statement.get("Condition", {}).values())
        for statement in _as_list(document.get("Statement"))
    )


def permission(label: str, accounts: list[str], actions: list[str], resource: str) -> dict[str, Any]:
    """Return the statement that lets accounts do something with a topic or queue, as AddPermission writes it."""
    principals = [f"arn:aws:iam::{account}:root" for account in accounts]
    return {
        "Sid": label,
        "Effect": "Allow",
        "Principal": {"AWS": principals if len(principals) != 1 else principals[0]},
        "Action": actions if len(actions) != 1 else actions[0],
        "Resource": resource,
    }


def _applies(statement: Mapping[str, Any], access: Access) -> bool:
    return (
        _matches(statement, "Action", access.action.lower(), lowers=True)
        and _matches(statement, "Resource", access.resource)
        and _has_principal(statement, access.principal)
        and all(
            _meets(operator, key, _as_list(values), access)
            for operator, conditions in statement.get("Condition", {}).items()
            for key, values in conditions.items()
        )
    )


def _matches(statement: Mapping[str, Any], name: str, value: str, *, lowers: bool = False) -> bool:
    def is_among(patterns: object) -> bool:
        return any(
            _is_like(value, str(pattern).lower() if lowers else str(pattern))
            for pattern in _as_list(patterns)
        )

    if f"Not{name}" in statement:
        return not is_among(statement[f"Not{name}"])
    return name not in statement or is_among(statement[name])


def _has_principal(statement: Mapping[str, Any], principal: str) -> bool:
    def is_among(principals: object) -> bool:
        named: list[object] = []
        for value in principals.values() if isinstance(principals, dict) else [principals]:
            named += _as_list(value)
        return any(one == "*" or principal in {one, _account_of(one)} for one in map(str, named))

    if "NotPrincipal" in statement:
        return not is_among(statement["NotPrincipal"])
    return is_among(statement.get("Principal", []))


def _account_of(principal: str) -> str:
    return principal.split(":")[4] if principal.startswith("arn:aws:iam::") else principal


def _meets(operator: str, key: str, values: list[object], access: Access) -> bool:
    operator = operator.rpartition(":")[2]
    only_if_exists = operator.endswith("IfExists")
    operator = operator.removesuffix("IfExists")
    source = _SOURCE_KEYS.get(key.lower())
    actual = {"arn": access.source_arn, "account": access.source_account}.get(source or "", "")
    if operator == "Null":
        return (not actual) == (str(values[0]).lower() == "true") if values else False
    if not actual:
        return only_if_exists or "Not" in operator
    compare = _COMPARISONS.get(operator.replace("Not", "", 1))
    if compare is None:
        return False  # a condition about something that this server does not know
    return any(compare(actual, str(value)) for value in values) != ("Not" in operator)


def _is_like(value: str, pattern: str) -> bool:
    if "*" not in pattern and "?" not in pattern:
        return value == pattern
    return re.match(fnmatch.translate(pattern.replace("[", "[[]")), value) is not None


_COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "ArnEquals": _is_like,
    "ArnLike": _is_like,
    "StringLike": _is_like,
    "StringEquals": str.__eq__,
    "StringEqualsIgnoreCase": lambda one, other: one.lower() == other.lower(),
}


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
