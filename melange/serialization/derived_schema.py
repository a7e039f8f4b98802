"""The schema that is derived from a dataclass: fields that judge, and functions compiled from them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from melange.serialization.compiled_reading import CompiledReader
from melange.serialization.compiled_writing import CompiledWriter
from melange.serialization.dataclass_field import DataclassField
from melange.serialization.fields import Field
from melange.serialization.json import is_transportable


class DerivedSchema:
    """``dump`` and ``load`` are the description of a class; ``write`` and ``read`` do the same in a third of the time.

    Compiled at the first use, because a program may only write events of a class, or only read them.
    """

    def __init__(self, root: Field) -> None:
        self.root = root
        self._is_compiled = isinstance(root, DataclassField)  # pydantic has code of its own for its models

    def dump(self, event: Any) -> Any:
        """Return the event as JSON values; raises ``ValidationError``."""
        return self.root.dump(event)

    def load(self, data: Any) -> Any:
        """Return the event of the JSON values; raises ``ValidationError``."""
        return self.root.load(data)

    def write(self, event: Any) -> str | None:
        """Return the JSON text of ``dump``, or None if ``dump`` has to judge."""
        if not self._is_compiled:
            return None
        try:
            text = self.writer.write(event)
        except Exception:  # whatever it is, dump() meets it again
            return None
        return text if is_transportable(text) else None

    def read(self, data: Any) -> Any:
        """Return the event of ``load``, or None if ``load`` has to judge."""
        if not self._is_compiled:
            return None
        try:
            return self.reader.read(data)
        except Exception:  # whatever it is, load() meets it again
            return None

    @cached_property
    def writer(self) -> CompiledWriter:
        """The compiled function that writes."""
        assert isinstance(self.root, DataclassField)
        return CompiledWriter(self.root)

    @cached_property
    def reader(self) -> CompiledReader:
        """The compiled function that reads."""
        assert isinstance(self.root, DataclassField)
        return CompiledReader(self.root)
