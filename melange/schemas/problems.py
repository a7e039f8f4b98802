"""What a schema found wrong, in words that may be logged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from marshmallow import Schema, ValidationError

from melange.events import nested_fields
from melange.occurrence import OCCURRED_ON_KEY
from melange.schemas.derived import DataclassSchema

_MOST_PROBLEMS = 5
_LONGEST_PROBLEM = 200
_LONGEST_NAME = 80


def describe(error: ValidationError, schema: Schema) -> str:
    """Return the first problems as ``lines[3].price: Must be a decimal number.; ...``.

    Names that the schema does not declare are keys out of the payload, and shown as ``*``.
    """
    # The messages of derived schemas hold nothing else than declared names.
    declared = None if isinstance(schema, DataclassSchema) else _declared_names(schema)
    problems = list(islice(_problems(error.messages, "", declared), _MOST_PROBLEMS + 1))
    more = ["and more"] if len(problems) > _MOST_PROBLEMS else []
    return "; ".join(problems[:_MOST_PROBLEMS] + more)


def shortened(name: object) -> str:
    """Return a type name of unknown origin as it may stand in a message."""
    text = str(name)
    return repr(text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}...")


def _problems(messages: Any, path: str, declared: set[str] | None) -> Iterator[str]:
    if isinstance(messages, Mapping):
        for key, nested in messages.items():
            yield from _problems(nested, path + _step(key, declared), declared)
    elif isinstance(messages, (list, tuple)):
        for message in messages:
            yield from _problems(message, path, declared)
    else:
        place = path.removeprefix(".")
        yield f"{place}: {messages}"[:_LONGEST_PROBLEM] if place else str(messages)[:_LONGEST_PROBLEM]


def _step(key: object, declared: set[str] | None) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    if key == "_schema":
        return ""
    return f".{key}" if declared is None or key in declared else ".*"


def _declared_names(schema: Schema) -> set[str]:
    names = {OCCURRED_ON_KEY}
    seen: set[type[Schema]] = set()
    pending = [schema]
    for nested_schema in pending:
        if type(nested_schema) in seen:
            continue
        seen.add(type(nested_schema))
        for name, field in nested_schema.fields.items():
            names.update((name, field.data_key or name))
            pending.extend(nested.schema for nested in nested_fields(field))
    return names
