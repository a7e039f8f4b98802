"""Django's databases as engines of SQLAlchemy, for the relay."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from django.db import connections
from sqlalchemy import URL, Engine, create_engine

from melange.errors import ConfigurationError


def engine_of(alias: str) -> Engine:
    """Return an engine for the database of this alias in ``DATABASES``.

    Raises:
        ConfigurationError: it is not PostgreSQL or SQLite, or is a SQLite in memory.
    """
    settings: dict[str, Any] = connections[alias].settings_dict
    vendor = connections[alias].vendor
    name = str(settings["NAME"])
    if vendor == "sqlite":
        if ":memory:" in name or "mode=memory" in name:
            raise ConfigurationError(
                f"the database {alias!r} is in memory, where a relay finds nothing: name a file"
            )
        return create_engine(URL.create("sqlite", database=name))
    if vendor == "postgresql":
        url = URL.create(
            "postgresql+psycopg" if find_spec("psycopg") else "postgresql+psycopg2",
            username=settings["USER"] or None,
            password=settings["PASSWORD"] or None,
            host=settings["HOST"] or None,
            port=int(settings["PORT"]) if settings["PORT"] else None,
            database=name,
        )
        return create_engine(url, connect_args=_for_driver(settings.get("OPTIONS") or {}))
    raise ConfigurationError(
        f"the database {alias!r} is {vendor}, and the relay supports PostgreSQL and SQLite"
    )


def _for_driver(options: dict[str, Any]) -> dict[str, Any]:
    # Of Django itself, not of libpq.
    own = ("pool", "isolation_level", "assume_role", "server_side_binding")
    return {key: value for key, value in options.items() if key not in own}
