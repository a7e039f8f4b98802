"""pydantic models as JSON objects: written and validated by pydantic itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pydantic
from marshmallow import ValidationError
from pydantic_core import PydanticSerializationError

from melange.events import EVENT_TYPE_KEY, EVENT_VERSION_KEY, OCCURRED_ON_KEY, EventMessage
from melange.serialization.fields import MOST_PROBLEMS, OBJECT
from melange.serialization.json import part_to_json

_MELANGES_OWN = frozenset({EVENT_TYPE_KEY, EVENT_VERSION_KEY})


class ModelField:
    """A pydantic model as an object, within an event or as the whole event.

    Exactly that class. Values that do not fit their annotations are refused when they are written, too. Unknown fields
    are what the model's configuration makes of them.
    """

    shapes = OBJECT

    def __init__(self, model: type[pydantic.BaseModel]) -> None:
        self._model = model
        self._is_event = issubclass(model, EventMessage)

    def matches(self, value: Any) -> bool:
        return type(value) is self._model

    def dump(self, value: Any) -> Any:
        if type(value) is not self._model:
            raise ValidationError(f"Must be a {self._model.__name__}.")
        try:
            return value.model_dump(mode="json", by_alias=True, warnings="error")
        except PydanticSerializationError as error:
            # Its text quotes values.
            raise ValidationError(f"Must be a {self._model.__name__} with values of its types.") from error

    def load(self, value: Any) -> Any:
        if self._is_event and isinstance(value, dict):
            value = {key: item for key, item in value.items() if key not in _MELANGES_OWN}
            if value.get(OCCURRED_ON_KEY, 0) is None:  # as in dataclasses: now
                del value[OCCURRED_ON_KEY]
        try:
            # From text, because pydantic's rules for JSON are others than those for Python objects.
            return self._model.model_validate_json(part_to_json(value))
        except pydantic.ValidationError as error:
            raise ValidationError(self._messages(error)) from error

    def _messages(self, error: pydantic.ValidationError) -> dict[str | int, Any]:
        declared = set(names_of_model(self._model, set()))
        messages: dict[str | int, Any] = {}
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        for problem in problems[: MOST_PROBLEMS + 1]:
            # Other names are keys of the payload.
            path = [step if isinstance(step, int) or step in declared else "*" for step in problem["loc"]]
            place = messages
            for step in path or ["_schema"]:
                place = place.setdefault(step, {})
            place.setdefault("_schema", []).append(problem["msg"])
        return messages


def names_of_model(annotation: Any, seen: set[Any], *, only_sensitive: bool = False) -> Iterator[str]:
    """Yield the names of the fields of the models in ``annotation``, on the wire and in Python."""
    for argument in get_args(annotation):
        yield from names_of_model(argument, seen, only_sensitive=only_sensitive)
    if (
        not isinstance(annotation, type)
        or not issubclass(annotation, pydantic.BaseModel)
        or annotation in seen
    ):
        return
    seen.add(annotation)
    for name, info in annotation.model_fields.items():
        extra = info.json_schema_extra
        if not only_sensitive or (isinstance(extra, dict) and extra.get("sensitive")):
            yield name
            for alias in (info.alias, info.serialization_alias, info.validation_alias):
                yield from _keys_of(alias)
        yield from names_of_model(info.annotation, seen, only_sensitive=only_sensitive)


def _keys_of(alias: str | pydantic.AliasPath | pydantic.AliasChoices | None) -> Iterator[str]:
    """Yield the keys of the object under which a field may be; of a path the first, which has all of it."""
    if isinstance(alias, str):
        yield alias
    elif isinstance(alias, pydantic.AliasPath):
        yield str(alias.path[0])
    elif alias is not None:
        for choice in alias.choices:
            yield from _keys_of(choice)
