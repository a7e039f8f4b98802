"""Schemas written by hand: ``EventSchema``, which ignores fields that a newer publisher added."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema, SchemaOpts, class_registry, fields

from melange.events import EventMessage


class _TolerantOpts(SchemaOpts):
    """Ignores unknown fields, unless the schema's own ``Meta`` sets ``unknown``.

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
    """The base class of schemas written by hand; register them with ``EventSerializer.register``.

    A schema is for the event type in its name (``ProductAddedSchema`` for ``ProductAdded``), or for its
    ``event_class``:

        class ProductAddedSchema(EventSchema):
            event_class = ProductAdded
            product_id = fields.Integer(required=True, strict=True)

    With ``event_class`` all listeners receive objects. Without it, listeners registered with a class of
    that type receive objects, and others receive the loaded dict. ``event_type_name`` and
    ``occurred_on`` need no declaration.

    Unknown fields are ignored here and in nested schemas, also plain marshmallow ones, unless the
    ``Meta`` of that schema sets ``unknown``, or the ``Nested`` field does. The messages of validators
    are in logs and dead letters: keep values out of them.
    """

    event_class: ClassVar[type[EventMessage] | None] = None


def nested_fields(field: Any) -> Iterator[fields.Nested]:
    """Yield the ``Nested`` fields in ``field``: itself, or its items or values."""
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
    """Return the tolerant form of the schema of a ``Nested`` field, at its first use.

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


# Bounded, so that classes made at run time can be collected.
@functools.lru_cache(maxsize=256)
def _tolerant_class(schema_class: type[Schema]) -> type[Schema]:
    if issubclass(schema_class, _TolerantSchema):
        return schema_class
    meta = type("Meta", (schema_class.Meta,), {"register": False})
    return type(schema_class.__name__, (schema_class, _TolerantSchema), {"Meta": meta})
