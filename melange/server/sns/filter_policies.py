"""Filter policies of subscriptions: what is refused, and which messages they let pass.

https://docs.aws.amazon.com/sns/latest/dg/sns-subscription-filter-policies.html
"""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeGuard

_MAX_KEYS = 5
_MAX_COMBINATIONS = 150
_MAX_READINGS = 1_000
"""The most ways to read arrays of objects in one message."""

Values = dict[str, list[Any]]
"""The values of a message by key, where a nested key is written with dots. A key that is absent has no entry."""

Test = Callable[[Any], bool]
"""Returns True if a value of a message is accepted."""


class FilterPolicyError(Exception):
    """A filter policy that SNS would refuse, with its reason."""


class NestedPolicyError(FilterPolicyError):
    """A nested policy for the attributes, which are not nested."""

    def __init__(self) -> None:
        super().__init__("Filter policy scope MessageAttributes does not support nested filter policy")


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
        if _combinations(document, (), keys, reads_body=reads_body) > _MAX_COMBINATIONS:
            raise FilterPolicyError("Filter policy is too complex")
        if len(keys) > _MAX_KEYS:
            raise FilterPolicyError(f"Filter policy can not have more than {_MAX_KEYS} keys")
        self._alternatives = list(_alternatives(document, ()))
        self._keys = {key for alternative in self._alternatives for key in alternative}
        self._reads_body = reads_body

    def lets_pass(self, body: str, attributes: Mapping[str, Mapping[str, Any]]) -> bool:
        """Return True if the subscription gets a message with this body and these attributes."""
        if not self._reads_body:
            return self._accepts({name: _values_of(attribute) for name, attribute in attributes.items()})
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return False
        return isinstance(document, dict) and any(map(self._accepts, _readings(document, "", self._keys)))

    def _accepts(self, values: Values) -> bool:
        return any(
            all(condition.accepts(values.get(key)) for key, condition in alternative.items())
            for alternative in self._alternatives
        )


def _is_or(key: str, value: object) -> bool:
    return (
        key == "$or"
        and isinstance(value, list)
        and len(value) > 1
        and all(isinstance(item, dict) and item and not _OPERATORS.keys() & item.keys() for item in value)
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
                _parse_test(item)
            keys.add(".".join((*path, key)))
            product *= len(value) * (len(path) + 1)
        else:
            raise FilterPolicyError(f'"{key}" must be an object or an array')
    return product


def _alternatives(document: dict[str, Any], path: tuple[str, ...]) -> Iterator[dict[str, Condition]]:
    """Yield the conditions of each way to meet the policy: ``$or`` makes several."""
    found: list[dict[str, Condition]] = [{}]
    for key, value in document.items():
        if _is_or(key, value):
            branches = [branch for item in value for branch in _alternatives(item, path)]
        elif isinstance(value, dict):
            branches = list(_alternatives(value, (*path, key)))
        else:
            branches = [{".".join((*path, key)): _parse_condition(value)}]
        found = [one | branch for one in found for branch in branches]
    yield from found


# --- the values of a message ---------------------------------------------------------------------------


def _values_of(attribute: Mapping[str, Any]) -> list[Any]:
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
                combined = ({**one, **reading} for one in found for reading in readings)
                found = list(islice(combined, _MAX_READINGS))
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


# --- conditions ----------------------------------------------------------------------------------------


class Condition:
    """The values that a policy accepts for one key."""

    __slots__ = ("accepts_absence", "tests")

    def __init__(self, tests: list[Test], *, accepts_absence: bool) -> None:
        self.tests = tests
        self.accepts_absence = accepts_absence

    def accepts(self, values: list[Any] | None) -> bool:
        """Return True if one of the key's values is accepted, or its absence is."""
        if values is None:
            return self.accepts_absence
        return any(test(value) for test in self.tests for value in values)


def _parse_condition(items: list[Any]) -> Condition:
    """Return the condition for the values of one key in a policy."""
    accepts_absence = any(isinstance(item, dict) and item.get("exists") is False for item in items)
    return Condition([_parse_test(item) for item in items], accepts_absence=accepts_absence)


def _parse_test(item: Any) -> Test:
    """Return the test for one value of a policy."""
    if isinstance(item, list):
        raise FilterPolicyError("Match value must be String, number, true, false, or null")
    if not isinstance(item, dict):
        return _equals(item)
    if len(item) != 1:
        raise FilterPolicyError("Only one key allowed in match expression")
    [(operator, operand)] = item.items()
    make = _OPERATORS.get(operator)
    if make is None:
        raise FilterPolicyError(f"Unrecognized match type {operator}")
    return make(operand)


def _equals(wanted: Any) -> Test:
    if isinstance(wanted, bool) or wanted is None:
        return lambda value: value is wanted
    if isinstance(wanted, str):
        return lambda value: isinstance(value, str) and value == wanted
    return lambda value: _is_number(value) and value == wanted


def _text_operator(name: str, make: Callable[[str], Test]) -> Callable[[Any], Test]:
    def parse(operand: Any) -> Test:
        if not isinstance(operand, str):
            raise FilterPolicyError(f"{name} match pattern must be a string")
        return make(operand)

    return parse


def _exists(operand: Any) -> Test:
    if not isinstance(operand, bool):
        raise FilterPolicyError("exists match pattern must be either true or false.")
    return lambda _: operand


def _anything_but(operand: Any) -> Test:
    if isinstance(operand, dict):
        if len(operand) != 1:
            raise FilterPolicyError("Only one key allowed in match expression")
        [(pattern, text)] = operand.items()
        if pattern != "prefix":
            raise FilterPolicyError(f"Unsupported anything-but pattern: {pattern}")
        starts = _OPERATORS["prefix"](text)
        return lambda value: not starts(value)
    unwanted = operand if isinstance(operand, list) else [operand]
    if not unwanted:
        raise FilterPolicyError("Empty arrays are not allowed")
    if not all(isinstance(one, str) or _is_number(one) for one in unwanted):
        raise FilterPolicyError("anything-but match pattern must be strings or numbers")
    tests = [_equals(one) for one in unwanted]
    return lambda value: not any(test(value) for test in tests)


def _numeric(operand: Any) -> Test:
    if not isinstance(operand, list):
        raise FilterPolicyError("Value of numeric must be an array.")
    bounds = list(operand)
    if not bounds or not isinstance(bounds[0], str):
        raise FilterPolicyError(f"Invalid member in numeric match: {bounds[0] if bounds else ']'}")
    operator, value = bounds[0], bounds[1] if len(bounds) > 1 else None
    if operator not in _COMPARISONS:
        raise FilterPolicyError(f"Unrecognized numeric range operator: {operator}")
    if not _is_number(value):
        raise FilterPolicyError(f"Value of {'equals' if operator == '=' else operator} must be numeric")
    first = _COMPARISONS[operator]
    if len(bounds) == 2:
        return lambda number: _is_number(number) and first(number, value)
    if operator not in {">", ">="}:
        raise FilterPolicyError("Too many elements in numeric expression")
    upper_operator, upper = bounds[2], bounds[3] if len(bounds) > 3 else None
    if not isinstance(upper_operator, str):
        raise FilterPolicyError(f"Bad value in numeric range: {upper_operator}")
    if upper_operator not in {"<", "<="}:
        raise FilterPolicyError(f"Bad numeric range operator: {upper_operator}")
    if not _is_number(upper):
        raise FilterPolicyError(f"Value of {upper_operator} must be numeric")
    if len(bounds) > 4:
        raise FilterPolicyError("Too many terms in numeric range expression")
    if value >= upper:
        raise FilterPolicyError("Bottom must be less than top")
    second = _COMPARISONS[upper_operator]
    return lambda number: _is_number(number) and first(number, value) and second(number, upper)


def _cidr(operand: Any) -> Test:
    if not isinstance(operand, str):
        raise FilterPolicyError("prefix match pattern must be a string")
    address, slash, bits = operand.partition("/")
    if not slash:
        raise FilterPolicyError("Malformed CIDR, one '/' required")
    if not bits.isdigit():
        raise FilterPolicyError("Malformed CIDR, mask bits must be an integer")
    try:
        network = ipaddress.ip_network(operand, strict=False)
    except ValueError:
        raise FilterPolicyError(f"Nonstandard IP address: {address}") from None

    def is_within(value: Any) -> bool:
        try:
            return isinstance(value, str) and ipaddress.ip_address(value) in network
        except ValueError:
            return False

    return is_within


_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "=": lambda number, bound: number == bound,
    ">": lambda number, bound: number > bound,
    ">=": lambda number, bound: number >= bound,
    "<": lambda number, bound: number < bound,
    "<=": lambda number, bound: number <= bound,
}

_OPERATORS: dict[str, Callable[[Any], Test]] = {
    "prefix": _text_operator(
        "prefix", lambda text: lambda value: isinstance(value, str) and value.startswith(text)
    ),
    "suffix": _text_operator(
        "suffix", lambda text: lambda value: isinstance(value, str) and value.endswith(text)
    ),
    "equals-ignore-case": _text_operator(
        "equals-ignore-case",
        lambda text: lambda value: isinstance(value, str) and value.lower() == text.lower(),
    ),
    "anything-but": _anything_but,
    "exists": _exists,
    "numeric": _numeric,
    "cidr": _cidr,
}


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
