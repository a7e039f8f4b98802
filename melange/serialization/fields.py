"""The fields of derived schemas: they can read what they write, and both ways refuse the wrong type.

So the publisher sees its own mistake, not its consumers. Refusals are marshmallow's ``ValidationError``, as in schemas
written by hand. They name the field and never quote a value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count, repeat
from typing import Any, Protocol

from marshmallow import ValidationError

from melange.serialization.conversions import REFUSALS, Conversion

MOST_PROBLEMS = 5
"""The limit of reported problems of a value: hostile bodies have a hundred thousand."""

_MOST_COLLISIONS = 100


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
