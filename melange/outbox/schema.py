"""The SQL that creates the tables of outbox and inbox."""

from __future__ import annotations

from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from melange.errors import ConfigurationError, nearest
from melange.outbox.tables import metadata

_DIALECTS: dict[str, type[Dialect]] = {"postgresql": postgresql.dialect, "sqlite": sqlite.dialect}


def create_statements(dialect_name: str) -> str:
    """Return the statements that create outbox and inbox on ``postgresql`` or ``sqlite``, as one script.

    Raises:
        ConfigurationError: another dialect.
    """
    if dialect_name not in _DIALECTS:
        raise ConfigurationError(
            f"there are statements for {' and '.join(_DIALECTS)}, not for {dialect_name!r}{nearest(dialect_name, _DIALECTS)}"
        )
    dialect = _DIALECTS[dialect_name]()
    statements: list[CreateTable | CreateIndex] = []
    for table in metadata.sorted_tables:
        statements.append(CreateTable(table))
        statements += [
            CreateIndex(index) for index in sorted(table.indexes, key=lambda index: str(index.name))
        ]
    texts = (str(statement.compile(dialect=dialect)).strip() for statement in statements)
    lines = (line.rstrip() for text in texts for line in f"{text};\n".split("\n"))
    return "\n".join(lines)
