"""Mappings as JSON objects. Errors show ``*`` for a key, which belongs to the payload."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

from marshmallow import ValidationError

from melange.serialization.conversions import INTEGER, TEXT, Conversion
from melange.serialization.fields import OBJECT, Field, Scalar, convert_each, refuse_collisions

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)


class TextMapping:
    """A mapping with text keys."""

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
