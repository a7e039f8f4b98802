"""Derived schemas as straight functions that write JSON text, in a third of the schema's own time.

The functions are for good events. A value that they do not know is written by its field, which is the judge; where that
refuses too, or anything else goes wrong, the caller asks the schema as a whole, which has the error's words. So both
ways accept the same events and write the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from json.encoder import encode_basestring
from math import isfinite
from typing import Any
from uuid import UUID

from melange.serialization.conversions import (
    CONVERSIONS,
    MAX_DECIMAL_DIGITS,
    MAX_DECIMAL_EXPONENT,
    TEXT,
    Conversion,
)
from melange.serialization.dataclass_field import DataclassField, Member, OccurredOn
from melange.serialization.fields import Field, Items, Nullable, Scalar
from melange.serialization.json import part_to_json
from melange.serialization.mappings import TextMapping
from melange.serialization.source_code import CompiledFunctions, is_plain
from melange.serialization.unions import Tagged

_WRITTEN: Mapping[Conversion, tuple[str, str]] = {
    # For each conversion the condition under which a value is good, and its JSON text then.
    CONVERSIONS[str]: ("type({0}) is str", "escaped({0})"),
    CONVERSIONS[int]: ("type({0}) is int", "repr({0})"),
    CONVERSIONS[float]: ("type({0}) is float and isfinite({0})", "repr({0})"),
    CONVERSIONS[bool]: ("type({0}) is bool", "('true' if {0} else 'false')"),
    CONVERSIONS[Decimal]: (
        (
            "type({0}) is Decimal and {0}.is_finite() and "
            f"-{MAX_DECIMAL_EXPONENT} <= {{0}}.adjusted() <= {MAX_DECIMAL_EXPONENT} and "
            f"len(text := str({{0}})) <= {MAX_DECIMAL_DIGITS}"
        ),
        "f'\"{{text}}\"'",
    ),
    CONVERSIONS[UUID]: ("type({0}) is UUID", "f'\"{{{0}}}\"'"),
    CONVERSIONS[datetime]: (
        "type({0}) is datetime and ({0}.tzinfo is UTC or {0}.tzinfo is None)",
        "f'\"{{{0}.isoformat()}}\"'",
    ),
    CONVERSIONS[date]: ("type({0}) is date", "f'\"{{{0}.isoformat()}}\"'"),
}


class CompiledWriter(CompiledFunctions):
    """The function that writes objects of one class, and of the classes within it."""

    _name = "write"

    def __init__(self, root: DataclassField) -> None:
        super().__init__(
            root,
            escaped=encode_basestring,
            isfinite=isfinite,
            UTC=UTC,
            Decimal=Decimal,
            UUID=UUID,
            date=date,
            datetime=datetime,
        )
        self.write: Callable[[Any], str] = self._function
        """Return the JSON text of a good object. Raises any exception for what the schema has to judge."""

    def _add(self, field: DataclassField) -> None:
        lines = [f"if type(value) is not {self._source.constant('CLASS', field.type)}: raise Unfit"]
        pieces = []
        for number, member in enumerate(field.members):
            lines += [
                f"value_{number} = {self._source.attribute('value', member.name)}",
                f"text_{number} = {self._expression(member.field, f'value_{number}')}",
            ]
            pieces.append(f"{self._key(member)}{{text_{number}}}")
        lines.append(f"return f'{{{{{','.join(pieces)}}}}}'")
        self._source.add_function(self._function_for(field), "value", lines)

    def _key(self, member: Member) -> str:
        if is_plain(member.key):
            return f'"{member.key}":'
        return f"{{{self._source.constant('KEY', encode_basestring(member.key) + ':')}}}"

    def _expression(self, field: Field, value: str, depth: int = 0) -> str:
        """Return an expression for the JSON text of the variable ``value``; ``depth`` is that of comprehensions."""
        if isinstance(field, DataclassField):
            return f"{self._function_for(field)}({value})"
        if isinstance(field, Nullable):
            return f"('null' if {value} is None else {self._expression(field.field, value, depth)})"
        judged = f"{self._source.constant('JUDGE', _judge(field))}({value})"
        if isinstance(field, Tagged):
            return self._tagged(field, value, judged)
        found = self._scalar(field, value) or self._items(field, value, depth)
        return f"({found[1]} if {found[0]} else {judged})" if found else judged

    def _tagged(self, field: Tagged, value: str, judged: str) -> str:
        expression = judged
        for member in field.members:
            if not isinstance(member, DataclassField) or not member.members:
                return judged
            text = f"{self._function_for(member)}({value})"
            if member.type in field.added_tags:
                start = part_to_json({field.tag: field.added_tags[member.type]})[:-1] + ","
                text = f"{self._source.constant('START', start)} + {text}[1:]"
            is_member = f"type({value}) is {self._source.constant('CLASS', member.type)}"
            expression = f"({text} if {is_member} else {expression})"
        return expression

    def _items(self, field: Field, value: str, depth: int) -> tuple[str, str] | None:
        item = f"item_{depth}"
        if isinstance(field, Items) and field.container in (list, tuple):
            items = f"[{self._expression(field.item, item, depth + 1)} for {item} in {value}]"
            return f"type({value}) in (list, tuple)", f"'[' + ','.join({items}) + ']'"
        if isinstance(field, TextMapping):
            written = self._expression(field.item, item, depth + 1)
            items = f"[escaped(key_{depth}) + ':' + {written} for key_{depth}, {item} in {value}.items()]"
            return f"type({value}) is dict", f"'{{' + ','.join({items}) + '}}'"
        return None

    def _scalar(self, field: Field, value: str) -> tuple[str, str] | None:
        """Return the condition under which a value is good, and the expression for its text then."""
        if isinstance(field, OccurredOn):
            return f"type({value}) is datetime and {value}.tzinfo is UTC", f"f'\"{{{value}.isoformat()}}\"'"
        if isinstance(field, Scalar):
            if field.conversion in _WRITTEN:
                condition, text = _WRITTEN[field.conversion]
                return condition.format(value), text.format(value)
            if field.conversion.choices:
                return self._choice(field.conversion, field.conversion.choices, value)
        return None

    def _choice(
        self, conversion: Conversion, choices: Mapping[Any, Any], value: str
    ) -> tuple[str, str] | None:
        if not conversion.is_literal:
            texts = {member.name: part_to_json(written) for written, member in choices.items()}
            enum_name = self._source.constant("ENUM", type(next(iter(choices.values()))))
            return f"type({value}) is {enum_name}", f"{self._source.constant('TEXTS', texts)}[{value}._name_]"
        if conversion.shapes == TEXT:
            name = self._source.constant("TEXTS", {text: part_to_json(text) for text in choices})
            return f"type({value}) is str and {value} in {name}", f"{name}[{value}]"
        return None


def _judge(field: Field) -> Callable[[Any], str]:
    return lambda value: part_to_json(field.dump(value))
