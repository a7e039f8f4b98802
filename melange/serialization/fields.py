"""The fields of derived schemas for single values, lists, sets, tuples and mappings.

Each can read what it writes, and both ways refuse the wrong type, so that the publisher sees its own mistake, not its
consumers. Refusals are marshmallow's ``ValidationError``, as in schemas written by hand. They
name the field and never quote a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count, repeat
from typing import Any, Protocol

from marshmallow import ValidationError

from melange.serialization.conversions import INTEGER, REFUSALS, TEXT, Conversion

MOST_PROBLEMS = 5
"""The limit of reported problems of a value: hostile bodies have a hundred thousand."""

_MOST_COLLISIONS = 100

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)

ARRAY = frozenset({"array"})
OBJECT = frozenset({"object"})


class Field(Protocol):
    """Writes values of one type to JSON and reads them from it; both raise ``ValidationError``."""

    @property
    def shapes(self) -> frozenset[str]:
        """The kinds of JSON values that are written, without null."""
        ...

    def matches(self, value: Any) -> bool:
        """Return True if ``value`` belongs here, and not to another member of a union."""
        ...

    def dump(self, value: Any) -> Any:
        """Return ``value`` as JSON."""
        ...

    def load(self, value: Any) -> Any:
        """Return the Python value of the JSON ``value``."""
        ...


class Scalar:
    """One JSON value that is neither array nor object, converted by functions."""

    def __init__(self, conversion: Conversion) -> None:
        self.conversion = conversion
        self.shapes = conversion.shapes
        self._write = conversion.write
        self._read = conversion.read
        self._refusal = f"Must be {conversion.expectation}."

    def matches(self, value: Any) -> bool:
        try:
            self._write(value)
        except REFUSALS:
            return False
        return True

    def dump(self, value: Any) -> Any:
        try:
            return self._write(value)
        except REFUSALS as error:
            raise ValidationError(self._refusal) from error

    def load(self, value: Any) -> Any:
        try:
            return self._read(value)
        except REFUSALS as error:
            raise ValidationError(self._refusal) from error


class Nullable:
    """None, or a value of another field."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.shapes = field.shapes

    def matches(self, value: Any) -> bool:
        return value is None or self.field.matches(value)

    def dump(self, value: Any) -> Any:
        return None if value is None else self.field.dump(value)

    def load(self, value: Any) -> Any:
        return None if value is None else self.field.load(value)


class Items:
    """Any number of items of one type, as an array; a list may stand for a tuple and the reverse."""

    shapes = ARRAY

    def __init__(self, container: type, item: Field) -> None:
        self.container = container
        self.item = item
        self._is_set = issubclass(container, (set, frozenset))
        self._accepted = (set, frozenset) if self._is_set else (list, tuple)

    def matches(self, value: Any) -> bool:
        return isinstance(value, self._accepted)

    def dump(self, value: Any) -> Any:
        if not isinstance(value, self._accepted):
            raise ValidationError("Must be a list.")
        if not self._is_set:
            return convert_each(count(), repeat(self.item.dump), value)
        refuse_collisions(value)
        # Sets iterate differently in each process; equal events should have equal bodies.
        return sorted(convert_each(count(), repeat(self.item.dump), value), key=repr)

    def load(self, value: Any) -> Any:
        if not isinstance(value, list):
            raise ValidationError("Must be a list.")
        items = convert_each(count(), repeat(self.item.load), value)
        if self._is_set:
            refuse_collisions(items)
        return self.container(items)


class FixedTuple:
    """A tuple with a type for each position, as an array."""

    shapes = ARRAY

    def __init__(self, items: Sequence[Field]) -> None:
        self._dumps = [item.dump for item in items]
        self._loads = [item.load for item in items]
        self._refusal = f"Must be a list of {len(items)}."

    def matches(self, value: Any) -> bool:
        return isinstance(value, (list, tuple))

    def dump(self, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(self._dumps):
            raise ValidationError(self._refusal)
        return convert_each(count(), self._dumps, value)

    def load(self, value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(self._loads):
            raise ValidationError(self._refusal)
        return tuple(convert_each(count(), self._loads, value))


class TextMapping:
    """A mapping with text keys. Errors show ``*`` for a key, which belongs to the payload."""

    shapes = OBJECT

    def __init__(self, item: Field) -> None:
        self.item = item

    def matches(self, value: Any) -> bool:
        return isinstance(value, Mapping)

    def dump(self, value: Any) -> Any:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ValidationError("Must be an object.")
        return dict(
            zip(value, convert_each(repeat("*"), repeat(self.item.dump), value.values()), strict=True)
        )

    def load(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object.")
        return dict(
            zip(value, convert_each(repeat("*"), repeat(self.item.load), value.values()), strict=True)
        )


class KeyedMapping:
    """A mapping with keys of another type, each of them as text."""

    shapes = OBJECT

    def __init__(self, key: Scalar, item: Field) -> None:
        self._key = key
        self._values = TextMapping(item)

    def matches(self, value: Any) -> bool:
        return isinstance(value, Mapping)

    def dump(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValidationError("Must be an object.")
        refuse_collisions(value)
        return self._values.dump(self._converted(self._key.dump, value))

    def load(self, value: Any) -> Any:
        return self._converted(self._key.load, self._values.load(value))

    def _converted(self, convert: Callable[[Any], Any], value: Mapping[Any, Any]) -> dict[Any, Any]:
        keys = convert_each(repeat("*"), repeat(convert), value)
        refuse_collisions(keys)
        converted = dict(zip(keys, value.values(), strict=True))
        if len(converted) != len(keys):
            raise ValidationError("Must not have two keys for one value.")
        return converted


class Deferred:
    """A field that stands for itself, as an alias that contains itself does."""

    def __init__(self) -> None:
        self.field: Field | None = None

    @property
    def shapes(self) -> frozenset[str]:
        return self._known.shapes

    def matches(self, value: Any) -> bool:
        return self._known.matches(value)

    def dump(self, value: Any) -> Any:
        return self._known.dump(value)

    def load(self, value: Any) -> Any:
        return self._known.load(value)

    @property
    def _known(self) -> Field:
        assert self.field is not None
        return self.field


def convert_each(
    places: Iterable[int | str], converts: Iterable[Callable[[Any], Any]], values: Iterable[Any]
) -> list[Any]:
    """Return each value, converted by its function; errors are reported under their positions."""
    converted: list[Any] = []
    errors: dict[int | str, Any] = {}
    left = MOST_PROBLEMS
    for place, convert, value in zip(places, converts, values, strict=False):
        try:
            converted.append(convert(value))
        except ValidationError as error:
            errors[place] = error.messages
            left -= 1
            if left < 0:
                break
    if errors:
        raise ValidationError(errors)
    return converted


def refuse_collisions(items: Collection[Any]) -> None:
    """Refuse items with many equal hashes, which would make a set or a dict take quadratic time.

    Only text has a hash that a sender cannot foresee. Integers, UUIDs and decimals that differ by a multiple of
    2**61 - 1 have the same, and so do tuples and dataclasses of them.
    """
    if len(items) - len(set(map(hash, items))) <= _MOST_COLLISIONS:
        return
    by_hash: dict[int, list[Any]] = {}
    for item in items:
        alike = by_hash.setdefault(hash(item), [])
        if item not in alike:  # a list of the same item again and again costs nothing
            if len(alike) == _MOST_COLLISIONS:
                raise ValidationError("Must not have so many items with the same hash.")
            alike.append(item)


def key_conversion(conversion: Conversion) -> Conversion | None:
    """Return the conversion to text and back for the keys of a mapping; None if there is none."""
    if conversion.choices is not None:
        return _chosen(conversion, conversion.choices)
    if conversion.shapes == TEXT:
        return conversion
    if conversion.shapes == INTEGER:
        return Conversion(
            conversion.expectation,
            lambda value: str(conversion.write(value)),
            lambda text: conversion.read(_integer(text)),
        )
    return None


def _integer(text: Any) -> int:
    if not isinstance(text, str) or not _INTEGER.fullmatch(text):
        raise ValueError
    return int(text)


def _chosen(conversion: Conversion, choices: Mapping[Any, Any]) -> Conversion | None:
    """Return the conversion of an enumeration or of literals; None if two would have the same text."""
    texts = {_text(written): value for written, value in choices.items()}
    if len(texts) != len(choices):
        return None

    def read(text: Any) -> Any:
        if not isinstance(text, str):
            raise TypeError
        return texts[text] if text in texts else conversion.read(text)

    return Conversion(conversion.expectation, lambda value: _text(conversion.write(value)), read)


def _text(written: Any) -> str:
    if isinstance(written, bool):
        return "true" if written else "false"
    return str(written)
