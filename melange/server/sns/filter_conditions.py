"""The conditions in a filter policy: a test for each operator."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, TypeGuard

Test = Callable[[Any], bool]


class FilterPolicyError(Exception):
    """A filter policy that SNS would refuse, with its reason."""


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


def parse_condition(items: list[Any]) -> Condition:
    """Return the condition for the values of one key in a policy."""
    accepts_absence = any(isinstance(item, dict) and item.get("exists") is False for item in items)
    return Condition([parse_test(item) for item in items], accepts_absence=accepts_absence)


def parse_test(item: Any) -> Test:
    """Return the test for one value of a policy."""
    if isinstance(item, list):
        raise FilterPolicyError("Match value must be String, number, true, false, or null")
    if not isinstance(item, dict):
        return _equals(item)
    if len(item) != 1:
        raise FilterPolicyError("Only one key allowed in match expression")
    [(operator, operand)] = item.items()
    make = OPERATORS.get(operator)
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
        starts = OPERATORS["prefix"](text)
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

OPERATORS: dict[str, Callable[[Any], Test]] = {
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
