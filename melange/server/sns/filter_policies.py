"""Filter policies of subscriptions: what is refused, and which messages they let pass.

https://docs.aws.amazon.com/sns/latest/dg/sns-subscription-filter-policies.html
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from melange.server.sns.filter_conditions import (
    OPERATORS,
    Condition,
    FilterPolicyError,
    parse_condition,
    parse_test,
)

MAX_KEYS = 5
MAX_COMBINATIONS = 150
_MAX_ALTERNATIVES = 1_000
"""The most ways to read arrays of objects in one message."""

Values = dict[str, list[Any]]
"""The values of a message by key, where a nested key is written with dots. A key that is absent has no entry."""


class FilterPolicy:
    """A policy that was checked. It passes a message if all conditions of one of its alternatives are met."""

    def __init__(self, text: str, *, reads_body: bool) -> None:
        """Parse a policy.

        Raises:
            FilterPolicyError: SNS would refuse it.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FilterPolicyError(f"failed to parse JSON. {error}") from None
        if not isinstance(document, dict):
            raise FilterPolicyError("failed to parse JSON. Filter policy must be an object")
        keys: set[str] = set()
        if _combinations(document, (), keys, reads_body=reads_body) > MAX_COMBINATIONS:
            raise FilterPolicyError("Filter policy is too complex")
        if len(keys) > MAX_KEYS:
            raise FilterPolicyError("Filter policy can not have more than 5 keys")
        self._alternatives = list(_alternatives(document, ()))
        self._keys = {key for alternative in self._alternatives for key in alternative}
        self._reads_body = reads_body

    def lets_pass(self, body: str, attributes: Mapping[str, Mapping[str, Any]]) -> bool:
        """Return True if the subscription gets a message with this body and these attributes."""
        if not self._reads_body:
            return self._accepts(_values_of_attributes(attributes))
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return False
        return isinstance(document, dict) and any(map(self._accepts, self._values_of_body(document)))

    def _accepts(self, values: Values) -> bool:
        return any(
            all(condition.accepts(values.get(key)) for key, condition in alternative.items())
            for alternative in self._alternatives
        )

    def _values_of_body(self, document: dict[str, Any]) -> list[Values]:
        return _readings(document, "", self._keys)


def _is_or(key: str, value: object) -> bool:
    return (
        key == "$or"
        and isinstance(value, list)
        and len(value) > 1
        and all(isinstance(item, dict) and item and not OPERATORS.keys() & item.keys() for item in value)
    )


def _combinations(
    document: dict[str, Any], path: tuple[str, ...], keys: set[str], *, reads_body: bool
) -> int:
    """Return the number of combinations, in which SNS counts values times depth; check and note each key."""
    product = 1
    for key, value in document.items():
        if _is_or(key, value):
            product *= sum(_combinations(item, path, keys, reads_body=reads_body) for item in value)
        elif isinstance(value, dict):
            if not reads_body:
                if not any(isinstance(item, dict | list) for item in value.values()):
                    raise FilterPolicyError(f'"{next(iter(value), key)}" must be an object or an array')
                raise NestedPolicyError
            product *= _combinations(value, (*path, key), keys, reads_body=reads_body)
        elif isinstance(value, list):
            if not value:
                raise FilterPolicyError("Empty arrays are not allowed")
            for item in value:
                parse_test(item)
            keys.add(".".join((*path, key)))
            product *= len(value) * (len(path) + 1)
        else:
            raise FilterPolicyError(f'"{key}" must be an object or an array')
    return product


class NestedPolicyError(FilterPolicyError):
    """A nested policy for the attributes, which are not nested."""

    def __init__(self) -> None:
        super().__init__("Filter policy scope MessageAttributes does not support nested filter policy")


def _alternatives(document: dict[str, Any], path: tuple[str, ...]) -> Iterator[dict[str, Condition]]:
    """Yield the conditions of each way to meet the policy: ``$or`` makes several."""
    found: list[dict[str, Condition]] = [{}]
    for key, value in document.items():
        if _is_or(key, value):
            branches = [branch for item in value for branch in _alternatives(item, path)]
        elif isinstance(value, dict):
            branches = list(_alternatives(value, (*path, key)))
        else:
            branches = [{".".join((*path, key)): parse_condition(value)}]
        found = [one | branch for one in found for branch in branches]
    yield from found


def _values_of_attributes(attributes: Mapping[str, Mapping[str, Any]]) -> Values:
    return {name: _values_of_attribute(attribute) for name, attribute in attributes.items()}


def _values_of_attribute(attribute: Mapping[str, Any]) -> list[Any]:
    data_type, text = attribute["DataType"], attribute.get("StringValue")
    if text is None:
        return [None]  # binary: only its existence counts
    if data_type == "String.Array":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return [text]
        return values if isinstance(values, list) else [values]
    if data_type.partition(".")[0] == "Number":
        number = float(text)
        return [number if math.isfinite(number) else text]
    return [text]


def _readings(value: Any, path: str, keys: set[str]) -> list[Values]:
    """Return the values below ``path`` by key; an array of objects can be read once for each of them."""
    if isinstance(value, dict):
        found: list[Values] = [{}]
        for key, item in value.items():
            below = f"{path}.{key}" if path else key
            if any(one == below or one.startswith(f"{below}.") for one in keys):
                readings = _readings(item, below, keys)
                found = [{**one, **reading} for one in found for reading in readings][:_MAX_ALTERNATIVES]
        return found
    if not isinstance(value, list):
        return [{path: [value]}]
    scalars = [item for item in value if not isinstance(item, dict | list)]
    nested: list[Values] = [
        reading for item in value if isinstance(item, dict | list) for reading in _readings(item, path, keys)
    ]
    if scalars:
        nested.append({path: scalars})
    return nested or [{}]
