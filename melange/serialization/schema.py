"""Schemas written by hand: ``EventSchema``, tolerant of what a newer publisher added."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema, SchemaOpts, class_registry, fields

from melange.events import EventMessage


class _TolerantOpts(SchemaOpts):
    """Ignores what a newer publisher added, unless the schema's own ``Meta`` says otherwise.

    As options and not in ``Meta``, which a subclass's own ``Meta`` would replace.
    """

    def __init__(self, meta: type) -> None:
        super().__init__(meta)
        self.unknown = getattr(meta, "unknown", EXCLUDE)


class _TolerantSchema(Schema):
    OPTIONS_CLASS = _TolerantOpts

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        super().on_bind_field(field_name, field_obj)
        for nested in nested_fields(field_obj):
            nested.nested = functools.partial(_tolerant, nested.nested)


class EventSchema(_TolerantSchema):
    """The base of schemas written by hand; ``EventSerializer.register`` puts them in force.

    A schema is for the event type that it is named after (``ProductAddedSchema`` for ``ProductAdded``),
    or for the class that it says:

        class ProductAddedSchema(EventSchema):
            event_class = ProductAdded
            product_id = fields.Integer(required=True, strict=True)

    With ``event_class`` every consumer is given objects. Without it those are given objects whose
    listeners name a class of that type, the others the loaded dict. ``event_type_name`` and
    ``occurred_on`` are carried without being declared.

    Unknown fields are ignored here and in nested schemas, also plain marshmallow ones, unless the
    ``Meta`` of the schema in question sets ``unknown``, or the ``Nested`` field does. What validators
    say ends up in logs and dead letters: keep values out of their messages.
    """

    event_class: ClassVar[type[EventMessage] | None] = None


def nested_fields(field: Any) -> Iterator[fields.Nested]:
    """Yield the ``Nested`` fields that ``field`` is or holds as items, keys or values."""
    if isinstance(field, fields.Nested):
        yield field
    elif isinstance(field, fields.List):
        yield from nested_fields(field.inner)
    elif isinstance(field, fields.Tuple):
        for item in field.tuple_fields:
            yield from nested_fields(item)
    elif isinstance(field, fields.Mapping):
        yield from nested_fields(field.value_field)


def _tolerant(nested: Any) -> Schema | type[Schema]:
    """Return the tolerant form of what a ``Nested`` field was given, when its schema is first needed.

    Not earlier, because schemas may nest themselves.
    """
    if callable(nested) and not isinstance(nested, type):
        nested = nested()
    if isinstance(nested, dict):
        nested = Schema.from_dict(nested)
    elif isinstance(nested, str):
        nested = class_registry.get_class(nested, all=False)
    if not isinstance(nested, Schema):
        return _tolerant_class(nested)
    tolerant = copy.copy(nested)
    tolerant.declared_fields = copy.deepcopy(nested.declared_fields)
    tolerant.__class__ = _tolerant_class(type(nested))
    if nested.unknown == nested.opts.unknown:
        tolerant.unknown = tolerant.opts.unknown
    return tolerant


# Bounded, because classes made on the fly should not live for ever.
@functools.lru_cache(maxsize=256)
def _tolerant_class(schema_class: type[Schema]) -> type[Schema]:
    if issubclass(schema_class, _TolerantSchema):
        return schema_class
    meta = type("Meta", (schema_class.Meta,), {"register": False})
    return type(schema_class.__name__, (schema_class, _TolerantSchema), {"Meta": meta})
