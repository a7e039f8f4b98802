"""marshmallow fields that refuse the wrong type in both directions.

marshmallow's own write whatever can be converted (5.9 as the integer 5, None as it is), so that the
mistake of a publisher is found by its consumers. These find it where the event is encoded, and say
in which field. Their messages never quote a value.
"""

# MERGED DOCS: How single values are written to JSON and read from it.

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from marshmallow import Schema, ValidationError, fields

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


class StrictField(fields.Field[Any]):
    """The base: None only where it is allowed, and errors on the way out that name the field."""

    def __init__(self, expectation: str) -> None:
        super().__init__(error_messages={"null": f"Must be {expectation}, not null."})
        self.expectation = expectation

    def write(self, value: Any) -> Any:
        """Return ``value`` as JSON; raise ``ValidationError`` if it is not of the field's type."""
        if value is None:
            if self.allow_none:
                return None
            raise ValidationError(self.error_messages["null"])
        return self._write(value)

    def refusal(self) -> ValidationError:
        return ValidationError(f"Must be {self.expectation}.")

    def serialize(self, attr: str, obj: Any, accessor: Any = None, **kwargs: Any) -> Any:
        try:
            return super().serialize(attr, obj, accessor, **kwargs)
        except ValidationError as error:
            raise ValidationError({attr: error.messages}) from error

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return self.write(value)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return self._read(value)

    def _write(self, value: Any) -> Any:
        raise NotImplementedError

    def _read(self, value: Any) -> Any:
        raise NotImplementedError


class Scalar(StrictField):
    """One JSON value that is neither array nor object, converted by functions."""

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion.expectation)
        self.conversion = conversion

    def _write(self, value: Any) -> Any:
        try:
            return self.conversion.write(value)
        except REFUSALS as error:
            raise self.refusal() from error

    def _read(self, value: Any) -> Any:
        try:
            return self.conversion.read(value)
        except REFUSALS as error:
            raise self.refusal() from error


class Items(StrictField):
    """Any number of items of one type, as an array; a list may stand for a tuple and the reverse."""

    def __init__(self, container: type, item: StrictField) -> None:
        super().__init__("a list")
        self.container = container
        self.item = item
        self.accepted = (set, frozenset) if issubclass(container, (set, frozenset)) else (list, tuple)

    def _write(self, value: Any) -> Any:
        if not isinstance(value, self.accepted):
            raise self.refusal()
        written = _convert_each((index, self.item.write, item) for index, item in enumerate(value))
        # Sets iterate differently in each process; equal events should have equal bodies.
        return sorted(written, key=repr) if set in self.accepted else written

    def _read(self, value: Any) -> Any:
        if not isinstance(value, list):
            raise self.refusal()
        return self.container(
            _convert_each((index, self.item.deserialize, item) for index, item in enumerate(value))
        )


class FixedTuple(StrictField):
    """A tuple with a type for each place, as an array."""

    def __init__(self, items: Sequence[StrictField]) -> None:
        super().__init__(f"a list of {len(items)}")
        self.items = items

    def _write(self, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(self.items):
            raise self.refusal()
        return _convert_each((i, field.write, value[i]) for i, field in enumerate(self.items))

    def _read(self, value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(self.items):
            raise self.refusal()
        return tuple(_convert_each((i, field.deserialize, value[i]) for i, field in enumerate(self.items)))


class TextMapping(StrictField):
    """A dict with text keys, as an object. Errors show ``*`` for the key, which belongs to the payload."""

    def __init__(self, item: StrictField) -> None:
        super().__init__("an object")
        self.item = item

    def _write(self, value: Any) -> Any:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.refusal()
        return dict(
            zip(value, _convert_each(("*", self.item.write, item) for item in value.values()), strict=True)
        )

    def _read(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise self.refusal()
        items = _convert_each(("*", self.item.deserialize, item) for item in value.values())
        return dict(zip(value, items, strict=True))


class NestedDataclass(StrictField):
    """A dataclass within another, as an object.

    Exactly that class: of a subclass only the fields known here would be written.
    """

    def __init__(self, dataclass_type: type, schemas: Mapping[type, Schema]) -> None:
        super().__init__(f"a {dataclass_type.__name__}")
        self.dataclass_type = dataclass_type
        self.schemas = schemas

    @property
    def schema(self) -> Schema:
        # Looked up late: a dataclass may contain itself.
        return self.schemas[self.dataclass_type]

    def _write(self, value: Any) -> Any:
        if type(value) is not self.dataclass_type:
            raise self.refusal()
        return self.schema.dump(value)

    def _read(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise self.refusal()
        return self.schema.load(value)


def _convert_each(entries: Iterable[tuple[int | str, Callable[[Any], Any], Any]]) -> list[Any]:
    converted: list[Any] = []
    errors: dict[int | str, Any] = {}
    for place, convert, value in entries:
        try:
            converted.append(convert(value))
        except ValidationError as error:
            errors[place] = error.messages
    if errors:
        raise ValidationError(errors)
    return converted
