"""How single values are written to JSON and read from it.

A written value can be read again and is then equal, so both ways refuse the same values: those of another type, and
short texts that take much work, such as decimals of a million digits, or with exponents that fill the memory when
they are formatted.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from functools import reduce
from operator import or_
from typing import Any
from uuid import UUID

REFUSALS = (TypeError, ValueError, ArithmeticError)
"""The exceptions of the conversions below for a value that does not fit."""

MAX_DECIMAL_DIGITS = 4_300
"""As many as Python allows for integers in text."""

MAX_DECIMAL_EXPONENT = 6_144
"""As in IEEE 754's decimal128."""

MOST_FLAG_BITS = 16
"""Python keeps every combination that it has seen, so a sender could fill the memory with combinations of more."""


TEXT = frozenset({"text"})
INTEGER = frozenset({"integer"})
_FRACTION = frozenset({"fraction"})
_SHAPES = {str: "text", int: "integer", bool: "boolean"}


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """How values of one type are written to JSON and read from it; both raise ``REFUSALS``.

    ``shapes`` are the kinds of JSON that it writes. ``choices`` has each JSON value with its Python value, where these are
    few: the members of an enumeration, or the values of a ``Literal``.
    """

    expectation: str
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]
    shapes: frozenset[str] = TEXT
    choices: Mapping[Any, Any] | None = None
    is_literal: bool = False


def _exactly(kind: type, *but_not: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, kind) or isinstance(value, but_not):
            raise TypeError
        return value

    return check


_text = _exactly(str)
_integer = _exactly(int, bool)


def _finite(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError
    return value


def _write_float(value: Any) -> Any:
    if float(_finite(value)) != value:  # an integer that no float equals
        raise ValueError
    return value


def _write_decimal(value: Any) -> str:
    if not isinstance(value, Decimal):
        raise TypeError
    text = str(value)
    _check_size(value, text)
    return text


def _read_decimal(value: Any) -> Decimal:
    # Other publishers may write prices as JSON numbers; their shortest text is the intended value.
    text = value if isinstance(value, str) else repr(_finite(value))
    decimal = Decimal(text)
    _check_size(decimal, text)
    return decimal


def _check_size(value: Decimal, text: str) -> None:
    if (
        len(text) > MAX_DECIMAL_DIGITS
        or not value.is_finite()
        or abs(value.adjusted()) > MAX_DECIMAL_EXPONENT
    ):
        raise ValueError


def _iso_format(kind: type, *but_not: type) -> Callable[[Any], str]:
    check = _exactly(kind, *but_not)
    return lambda value: check(value).isoformat()


def _iso_format_with_offset(kind: type) -> Callable[[Any], str]:
    check = _exactly(kind)

    def write(value: Any) -> str:
        offset = check(value).utcoffset()
        if offset and offset.microseconds:  # fromisoformat() loses them
            raise ValueError
        return str(value.isoformat())

    return write


def _write_duration(value: Any) -> float:
    seconds: float = _exactly(timedelta)(value).total_seconds()
    # Exact to the microsecond up to 136 years, 2**32 seconds, where the 53 bits of a float end.
    if timedelta(seconds=seconds) != value:
        raise ValueError
    return seconds


def _read_duration(value: Any) -> timedelta:
    duration = timedelta(seconds=_finite(value))
    _write_duration(duration)
    return duration


def enum_conversion(enum_type: type[Enum], unknown: Enum | None = None) -> Conversion:
    """By value where all values are text or integers, by name otherwise.

    ``unknown`` is the member for values that no member has; without it they are refused.
    """
    is_member = _exactly(enum_type)
    expectation = f"a {enum_type.__name__}"
    members = enum_type.__members__
    if issubclass(enum_type, Flag):
        known = flag_bits(enum_type)
        # Python keeps every combination that it has seen, so unknown bits would fill the memory.
        return Conversion(
            expectation,
            lambda value: _known_bits(is_member(value).value, known),
            lambda value: enum_type(_known_bits(value, known)),
            INTEGER,
        )
    if all(type(member.value) in (str, int) for member in members.values()):
        choices = {member.value: member for member in enum_type}
        read, write = _enum_reader(enum_type), lambda member: is_member(member).value
    else:
        choices = {member.name: member for member in enum_type}
        read, write = lambda name: members[_known(name, members)], lambda member: is_member(member).name
    shapes = frozenset(_SHAPES[type(written)] for written in choices)
    return Conversion(
        expectation, write, read if unknown is None else _or_unknown(read, unknown), shapes or TEXT, choices
    )


def flag_bits(flag_type: type[Flag]) -> int:
    """Return all bits of the members of ``flag_type``."""
    return reduce(or_, (member.value for member in flag_type.__members__.values()), 0)


def _or_unknown(read: Callable[[Any], Enum], unknown: Enum) -> Callable[[Any], Enum]:
    def read_or_unknown(value: Any) -> Enum:
        try:
            return read(value)
        except ValueError:
            if not isinstance(value, (str, int)):
                raise
            return unknown

    return read_or_unknown


def _known_bits(value: Any, known: int) -> int:
    if type(value) is not int or value < 0 or value & ~known:
        raise ValueError
    return value


def _enum_reader(enum_type: type[Enum]) -> Callable[[Any], Enum]:
    def read(value: Any) -> Enum:
        # True and 1.0 equal 1, but have another type.
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

    return Conversion(
        f"one of {', '.join(map(repr, values))}",
        check,
        check,
        frozenset(_SHAPES[type(value)] for value in values),
        {value: value for value in values} if len(set(values)) == len(values) else None,
        is_literal=True,
    )


def _hashable(value: Any) -> Any:
    """Return the JSON value as an item for a set: arrays become tuples."""
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item) for item in value)
    if value is not None and not isinstance(value, (str, int, float)):
        raise TypeError
    return value


_ALL_SHAPES = frozenset({"text", "integer", "fraction", "boolean", "array", "object"})

ANYTHING = Conversion("anything", lambda value: value, lambda value: value, _ALL_SHAPES)

ANYTHING_HASHABLE = Conversion("a value that a set can hold", _hashable, _hashable, _ALL_SHAPES)
"""For sets: an array in one was a tuple."""

_BOOLEANS: Mapping[Any, Any] = {False: False, True: True}

CONVERSIONS: Mapping[type, Conversion] = {
    str: Conversion("text", _text, _text),
    int: Conversion("an integer", _integer, _integer, INTEGER),
    float: Conversion("a finite number", _write_float, lambda value: float(_finite(value)), _FRACTION),
    bool: Conversion("true or false", _exactly(bool), _exactly(bool), frozenset({"boolean"}), _BOOLEANS),
    bytes: Conversion(
        "bytes in base64",
        lambda value: b64encode(_exactly(bytes)(value)).decode(),
        lambda value: b64decode(_text(value), validate=True),
    ),
    Decimal: Conversion("a decimal number", _write_decimal, _read_decimal),
    UUID: Conversion("a UUID", lambda value: str(_exactly(UUID)(value)), lambda value: UUID(_text(value))),
    datetime: Conversion(
        "a datetime in ISO 8601",
        _iso_format_with_offset(datetime),
        lambda value: datetime.fromisoformat(_text(value)),
    ),
    date: Conversion(
        "a date in ISO 8601", _iso_format(date, datetime), lambda value: date.fromisoformat(_text(value))
    ),
    time: Conversion(
        "a time in ISO 8601", _iso_format_with_offset(time), lambda value: time.fromisoformat(_text(value))
    ),
    timedelta: Conversion("a duration in seconds", _write_duration, _read_duration, _FRACTION),
}
"""The scalars that can be derived, by annotation."""
