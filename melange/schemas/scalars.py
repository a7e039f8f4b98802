"""How single values are written to JSON and read from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

REFUSALS = (TypeError, ValueError, ArithmeticError)
"""What the conversions below raise for a value that does not fit."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """How values of one type are written to JSON and read from it; both raise ``REFUSALS``."""

    expectation: str
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _exactly(kind: type, *but_not: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, kind) or isinstance(value, but_not):
            raise TypeError
        return value

    return check


_text = _exactly(str)


def _iso_format(kind: type, *but_not: type) -> Callable[[Any], str]:
    check = _exactly(kind, *but_not)
    return lambda value: check(value).isoformat()


def _finite(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError
    return value


def _finite_decimal(value: Any) -> Decimal:
    if not isinstance(value, Decimal) or not value.is_finite():
        raise TypeError
    return value


def _read_decimal(value: Any) -> Decimal:
    # Others may write prices as JSON numbers; their shortest text is what they meant.
    return _finite_decimal(Decimal(value if isinstance(value, str) else repr(_finite(value))))


def enum_conversion(enum_type: type[Enum]) -> Conversion:
    """By value where all values are text or integers, by name otherwise."""
    is_member = _exactly(enum_type)
    expectation = f"a {enum_type.__name__}"
    if all(type(member.value) in (str, int) for member in enum_type.__members__.values()):
        return Conversion(expectation, lambda member: is_member(member).value, _enum_reader(enum_type))
    members = enum_type.__members__
    return Conversion(
        expectation, lambda member: is_member(member).name, lambda name: members[_known(name, members)]
    )


def _enum_reader(enum_type: type[Enum]) -> Callable[[Any], Enum]:
    def read(value: Any) -> Enum:
        # True and 1.0 equal 1, and are something else.
        if type(value) not in (str, int):
            raise TypeError
        return enum_type(value)

    return read


def _known(name: Any, members: Mapping[str, Enum]) -> str:
    if not isinstance(name, str) or name not in members:
        raise ValueError
    return name


def literal_conversion(values: Sequence[Any]) -> Conversion:
    """One of ``values``, which are text, integers or booleans."""

    def check(value: Any) -> Any:
        if not any(type(value) is type(allowed) and value == allowed for allowed in values):
            raise ValueError
        return value

    return Conversion(f"one of {', '.join(map(repr, values))}", check, check)


ANYTHING = Conversion("anything", lambda value: value, lambda value: value)

CONVERSIONS: Mapping[type, Conversion] = {
    str: Conversion("text", _text, _text),
    int: Conversion("an integer", _exactly(int, bool), _exactly(int, bool)),
    float: Conversion("a finite number", _finite, lambda value: float(_finite(value))),
    bool: Conversion("true or false", _exactly(bool), _exactly(bool)),
    Decimal: Conversion("a decimal number", lambda value: str(_finite_decimal(value)), _read_decimal),
    UUID: Conversion("a UUID", lambda value: str(_exactly(UUID)(value)), lambda value: UUID(_text(value))),
    datetime: Conversion(
        "a datetime in ISO 8601",
        _iso_format(datetime),
        lambda value: datetime.fromisoformat(_text(value)),
    ),
    date: Conversion(
        "a date in ISO 8601", _iso_format(date, datetime), lambda value: date.fromisoformat(_text(value))
    ),
    time: Conversion("a time in ISO 8601", _iso_format(time), lambda value: time.fromisoformat(_text(value))),
    timedelta: Conversion(
        # Exact to the microsecond up to 136 years, 2**32 seconds, where float's 53 bits end.
        "a duration in seconds",
        lambda value: _exactly(timedelta)(value).total_seconds(),
        lambda value: timedelta(seconds=_finite(value)),
    ),
}
"""The scalars that can be derived, by annotation."""
