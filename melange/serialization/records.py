"""Typed dicts as JSON objects, and named tuples as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from marshmallow import ValidationError

from melange.serialization.fields import ARRAY, MOST_PROBLEMS, OBJECT, Field, convert_each


class Item(NamedTuple):
    """One key of a typed dict."""

    field: Field
    is_required: bool


class TypedDictField:
    """A ``TypedDict`` as an object. Unknown keys are refused when it is written, and ignored when it is read."""

    shapes = OBJECT

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: Mapping[str, Item] = {}

    def fields(self) -> Iterator[tuple[str, Field]]:
        """Yield the keys, each with its field."""
        for key, item in self.items.items():
            yield key, item.field

    def matches(self, value: Any) -> bool:
        return isinstance(value, dict)

    def dump(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError(f"Must be a {self.name}.")
        if not value.keys() <= self.items.keys():
            raise ValidationError(f"Must not have keys that a {self.name} does not have.")
        return self._converted(value, "dump")

    def load(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError(f"Must be a {self.name}.")
        return self._converted(value, "load")

    def _converted(self, value: dict[str, Any], direction: str) -> dict[str, Any]:
        converted: dict[str, Any] = {}
        errors: dict[str | int, Any] = {}
        for key, (field, is_required) in self.items.items():
            if key in value:
                try:
                    converted[key] = getattr(field, direction)(value[key])
                except ValidationError as error:
                    errors[key] = error.messages
            elif is_required:
                errors[key] = ["Missing data for required field."]
            if len(errors) > MOST_PROBLEMS:
                break
        if errors:
            raise ValidationError(errors)
        return converted


class NamedTupleField:
    """A ``NamedTuple`` as an array.

    The last items may be missing if they have defaults, and items after the last are ignored, so that either side may
    get a new one first.
    """

    shapes = ARRAY

    def __init__(self, named_tuple: type[tuple[Any, ...]]) -> None:
        self.type = named_tuple
        self.items: Sequence[Field] = ()
        self.required = 0

    def matches(self, value: Any) -> bool:
        return type(value) is self.type

    def dump(self, value: Any) -> Any:
        if type(value) is not self.type:
            raise ValidationError(f"Must be a {self.type.__name__}.")
        return convert_each(count(), [item.dump for item in self.items], value)

    def load(self, value: Any) -> Any:
        if not isinstance(value, list) or len(value) < self.required:
            raise ValidationError(f"Must be a list of {len(self.items)}.")
        return self.type(*convert_each(count(), [item.load for item in self.items], value))
