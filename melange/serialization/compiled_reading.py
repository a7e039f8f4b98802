"""Derived schemas as straight functions that make objects, in a third of the schema's own time.

The functions are for good data. A value that they do not know is read by its field, which is the judge; where that
refuses too, or a constructor changes what it was given, or anything else goes wrong, the caller asks the schema as a
whole. So both ways accept the same data and make equal objects.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
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
from melange.serialization.dataclass_field import DataclassField, OccurredOn
from melange.serialization.fields import Field, Items, Nullable, Scalar
from melange.serialization.json import MAX_NESTING
from melange.serialization.mappings import TextMapping
from melange.serialization.source_code import CompiledFunctions, is_plain
from melange.serialization.unions import Tagged

_MISSING = object()

_READ: Mapping[Conversion, tuple[str, str]] = {
    # For each conversion the condition under which JSON is good, and its value then.
    CONVERSIONS[str]: ("type({0}) is str", "{0}"),
    CONVERSIONS[int]: ("type({0}) is int", "{0}"),
    CONVERSIONS[float]: ("type({0}) is float and isfinite({0})", "{0}"),
    CONVERSIONS[bool]: ("type({0}) is bool", "{0}"),
    CONVERSIONS[Decimal]: (
        (
            f"type({{0}}) is str and len({{0}}) <= {MAX_DECIMAL_DIGITS} and "
            "(decimal := Decimal({0})).is_finite() and "
            f"-{MAX_DECIMAL_EXPONENT} <= decimal.adjusted() <= {MAX_DECIMAL_EXPONENT}"
        ),
        "decimal",
    ),
    CONVERSIONS[UUID]: ("type({0}) is str", "UUID({0})"),
    CONVERSIONS[datetime]: ("type({0}) is str", "datetime.fromisoformat({0})"),
    CONVERSIONS[date]: ("type({0}) is str", "date.fromisoformat({0})"),
    CONVERSIONS[time]: ("type({0}) is str", "time.fromisoformat({0})"),
}


class CompiledReader(CompiledFunctions):
    """The function that makes objects of one class, and of the classes within it."""

    _name = "read"

    def __init__(self, root: DataclassField) -> None:
        super().__init__(
            root,
            isfinite=isfinite,
            missing=_MISSING,
            set_field=object.__setattr__,  # frozen dataclasses refuse an assignment
            UTC=UTC,
            Decimal=Decimal,
            UUID=UUID,
            date=date,
            datetime=datetime,
            time=time,
        )
        self.read: Callable[[Any], Any] = self._function
        """Return the object of good data. Raises any exception for what the schema has to judge."""

    def _add(self, field: DataclassField) -> None:
        lines = [f"if type(data) is not dict or depth > {MAX_NESTING}: raise Unfit"]
        for number, member in enumerate(field.members):
            value = f"value_{number}"
            read = f"{value} = {self._expression(member.field, value)}"
            if member.is_required:
                lines += [f"{value} = data[{self._source.literal(member.key)}]", read]
            else:
                lines += [
                    f"{value} = data.get({self._source.literal(member.key)}, missing)",
                    f"if {value} is not missing: {read}",
                ]
        calls = None if field.has_post_init else self._constructor_call(field)
        lines += calls or self._made_by_schema(field)
        self._source.add_function(self._function_for(field), "data, depth=0", lines)

    def _constructor_call(self, field: DataclassField) -> list[str] | None:
        """Return the lines that call the constructor, and prove that it changed nothing; None where they would not do."""
        members = {member.name: (number, member) for number, member in enumerate(field.members)}
        lines, passed, unchanged = [], [], []
        is_positional = True
        # Of __init__ and not of the class, because Occurrence.__new__ takes anything.
        constructor = inspect.signature(field.type.__init__)  # type: ignore[misc]  # that of this very class
        for parameter in list(constructor.parameters.values())[1:]:
            number, member = members.get(parameter.name, (0, None))
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or not is_plain(
                parameter.name
            ):
                return None
            is_positional &= parameter.kind is parameter.POSITIONAL_OR_KEYWORD and member is not None
            if member is None:
                continue
            value = f"value_{number}"
            changed = f"{self._source.attribute('made', member.name)} is not {value}"
            if not member.is_required:
                default = self._source.constant("DEFAULT", parameter.default)
                lines.append(f"if {value} is missing: {value} = {default}")
                changed = f"({changed} and {value} is not {default})"
            passed.append(value if is_positional else f"{parameter.name}={value}")
            unchanged.append(changed)
        lines.append(f"made = {self._source.constant('CLASS', field.type)}({', '.join(passed)})")
        if unchanged:
            lines.append(f"if {' or '.join(unchanged)}: raise Unfit")
        for name, (number, member) in members.items():
            if not member.is_argument:
                lines.append(
                    f"if value_{number} is not missing: set_field(made, {self._source.literal(name)}, value_{number})"
                )
        return [*lines, "return made"]

    def _made_by_schema(self, field: DataclassField) -> list[str]:
        lines = ["arguments, others = {}, {}"]
        for number, member in enumerate(field.members):
            values = "arguments" if member.is_argument else "others"
            lines.append(
                f"if value_{number} is not missing: {values}[{self._source.literal(member.name)}] = value_{number}"
            )
        return [*lines, f"return {self._source.constant('MAKE', field.make)}(arguments, others)"]

    def _expression(self, field: Field, value: str, depth: int = 0) -> str:
        """Return an expression for the Python value of the variable ``value``; ``depth`` is that of comprehensions."""
        if isinstance(field, DataclassField):
            return f"{self._function_for(field)}({value}, depth + 1)"
        if isinstance(field, Nullable):
            return f"(None if {value} is None else {self._expression(field.field, value, depth)})"
        judged = f"{self._source.constant('JUDGE', field.load)}({value})"
        if isinstance(field, Tagged):
            return self._tagged(field, value, judged)
        found = self._scalar(field, value) or self._items(field, value, depth)
        return f"({found[1]} if {found[0]} else {judged})" if found else judged

    def _tagged(self, field: Tagged, value: str, judged: str) -> str:
        expression = judged
        for tag, member in field.by_tag.items():
            if not isinstance(member, DataclassField):
                return judged
            is_member = f"{value}.get({self._source.literal(field.tag)}) == {self._source.literal(tag)}"
            expression = (
                f"({self._function_for(member)}({value}, depth + 1) if {is_member} else {expression})"
            )
        return f"({expression} if type({value}) is dict else {judged})"

    def _items(self, field: Field, value: str, depth: int) -> tuple[str, str] | None:
        item = f"item_{depth}"
        if isinstance(field, Items) and field.container in (list, tuple):
            items = f"[{self._expression(field.item, item, depth + 1)} for {item} in {value}]"
            return f"type({value}) is list", items if field.container is list else f"tuple({items})"
        if isinstance(field, TextMapping):
            read = self._expression(field.item, item, depth + 1)
            items = f"{{key_{depth}: {read} for key_{depth}, {item} in {value}.items()}}"
            return f"type({value}) is dict", items
        return None

    def _scalar(self, field: Field, value: str) -> tuple[str, str] | None:
        """Return the condition under which JSON is good, and the expression for its value then."""
        if isinstance(field, OccurredOn):
            is_utc = f"(moment := datetime.fromisoformat({value})).tzinfo is UTC"
            return f"type({value}) is str and {is_utc}", "moment"
        if isinstance(field, Scalar):
            if field.conversion in _READ:
                condition, read = _READ[field.conversion]
                return condition.format(value), read.format(value)
            if field.conversion.choices and (
                field.conversion.shapes == TEXT or not field.conversion.is_literal
            ):
                name = self._source.constant("CHOICES", field.conversion.choices)
                return f"type({value}) in (str, int) and {value} in {name}", f"{name}[{value}]"
        return None
