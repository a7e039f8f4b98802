"""Values of one of several types: told apart by their JSON, and objects by a tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import ValidationError

from melange.serialization.fields import OBJECT, Field, Scalar
from melange.serialization.records import DataclassField, TypedDictField

DEFAULT_TAG = "type"
"""The key of the class's name, in objects that have no key of their own to tell them apart."""

_SHAPES = {bool: "boolean", int: "integer", float: "fraction", str: "text", list: "array", dict: "object"}


class AmbiguousUnionError(Exception):
    """Two members of a union cannot be told apart; says which."""


class OneOf:
    """A value of one of several types that differ in their JSON: text, numbers, booleans, arrays or objects."""

    def __init__(self, members: Sequence[Field], expectations: Sequence[str]) -> None:
        self._members = members
        self._refusal = f"Must be {' or '.join(expectations)}."
        self.shapes: frozenset[str] = frozenset().union(*(member.shapes for member in members))
        self._by_shape: dict[str, Field] = {}
        for member, expectation in zip(members, expectations, strict=True):
            for shape in member.shapes:
                if shape in self._by_shape:
                    raise AmbiguousUnionError(f"{expectation} cannot be told from another: both are {shape}")
                self._by_shape[shape] = member
        # Others write 5.0 as 5.
        if "fraction" in self._by_shape:
            self._by_shape.setdefault("integer", self._by_shape["fraction"])

    def matches(self, value: Any) -> bool:
        return any(member.matches(value) for member in self._members)

    def dump(self, value: Any) -> Any:
        for member in self._members:
            if member.matches(value):
                return member.dump(value)
        raise ValidationError(self._refusal)

    def load(self, value: Any) -> Any:
        member = self._by_shape.get(_SHAPES.get(type(value), "null"))
        if member is None:
            raise ValidationError(self._refusal)
        return member.load(value)


class Tagged:
    """An object of one of several classes, which a tag tells apart.

    The tag is a field that each class has as a ``Literal`` of text, or the class's name, which is added.
    """

    shapes = OBJECT

    def __init__(self, members: Sequence[DataclassField | TypedDictField], tag: str | None) -> None:
        self.members = members
        self._wanted_tag = tag
        self.tag = DEFAULT_TAG
        self.by_tag: dict[str, DataclassField | TypedDictField] = {}
        self.added_tags: dict[type, str] = {}

    def complete(self) -> None:
        """Choose the tag: afterwards, when the fields of the classes are known.

        Raises:
            AmbiguousUnionError: says what is wrong.
        """
        literals = [_text_literals(member) for member in self.members]
        common = [key for key in literals[0] if all(key in others for others in literals)]
        self.tag = self._wanted_tag or next(iter(common), DEFAULT_TAG)
        for member, own in zip(self.members, literals, strict=True):
            tags = own.get(self.tag)
            if tags is None:
                tags = (self._added_tag(member),)
            for tag in tags:
                if tag in self.by_tag:
                    raise AmbiguousUnionError(f"two of its classes have the tag {tag!r}")
                self.by_tag[tag] = member
        self._refusal = f"Must have {self.tag}: one of {', '.join(self.by_tag)}."

    def _added_tag(self, member: DataclassField | TypedDictField) -> str:
        if isinstance(member, TypedDictField):
            raise AmbiguousUnionError(f"{member.name} needs a key {self.tag!r} that is a Literal of text")
        if any(self.tag == one.key for one in member.members):
            raise AmbiguousUnionError(
                f"{member.type.__name__} has a field {self.tag!r} that is not a Literal of text: name another tag "
                "with field(metadata={'discriminator': ...})"
            )
        return self.added_tags.setdefault(member.type, member.type.__name__)

    def matches(self, value: Any) -> bool:
        return any(member.matches(value) for member in self.members)

    def dump(self, value: Any) -> Any:
        if isinstance(value, dict):
            member = self._tagged(value)
        else:
            member = next((one for one in self.members if one.matches(value)), None)
        if member is None:
            raise ValidationError(self._refusal)
        added = self.added_tags.get(type(value))
        written = member.dump(value)
        return written if added is None else {self.tag: added, **written}

    def load(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object.")
        member = self._tagged(value)
        if member is None:
            raise ValidationError(self._refusal)
        return member.load(value)

    def _tagged(self, value: Mapping[str, Any]) -> DataclassField | TypedDictField | None:
        tag = value.get(self.tag)
        return self.by_tag.get(tag) if isinstance(tag, str) else None


def _text_literals(member: DataclassField | TypedDictField) -> dict[str, tuple[str, ...]]:
    """Return the fields that are a ``Literal`` of text, with its values."""
    found: dict[str, tuple[str, ...]] = {}
    for key, field in member.fields():
        if isinstance(field, Scalar) and field.conversion.is_literal:
            values = tuple(field.conversion.choices or ())
            if all(isinstance(value, str) for value in values):
                found[key] = values
    return found


def union_of(
    members: Sequence[Field], expectations: Sequence[str], tag: str | None
) -> tuple[Field, Tagged | None]:
    """Return the field for one of ``members``; and the part that has to be completed, if they need a tag.

    Raises:
        AmbiguousUnionError: they cannot be told apart.
    """
    objects = [member for member in members if member.shapes == OBJECT]
    tagged: Tagged | None = None
    if len(objects) > 1:
        classes = [one for one in objects if isinstance(one, (DataclassField, TypedDictField))]
        if len(classes) != len(objects):
            raise AmbiguousUnionError("a mapping cannot be told from another object")
        tagged = Tagged(classes, tag)
        others = [(one, text) for one, text in zip(members, expectations, strict=True) if one not in objects]
        members = [*(one for one, _ in others), tagged]
        expectations = [*(text for _, text in others), "an object"]
    if len(members) == 1:
        return members[0], tagged
    return OneOf(members, expectations), tagged
