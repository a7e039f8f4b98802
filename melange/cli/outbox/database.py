"""The database of a command, by its URL. No text here shows the URL: it may contain a password."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from melange.cli.failures import failures_shown
from melange.errors import ConfigurationError, OutboxError
from melange.outbox import OutboxAdministration
from melange.outbox.database_errors import may_show_password

_FORMS = "write postgresql+psycopg://user:password@host/database or sqlite:///file.db"

_Command = TypeVar("_Command", bound=Callable[..., Any])


def database_url_option(*, required: bool = True) -> Callable[[_Command], _Command]:
    """Return the option ``--database-url``."""
    return click.option(
        "--database-url",
        metavar="URL",
        required=required,
        envvar="DATABASE_URL",
        show_envvar=True,
        help="The database, in SQLAlchemy's format. Set the variable: other users can read command lines.",
    )


@contextmanager
def database(url: str) -> Iterator[Engine]:
    """Provide an engine for this URL inside the block. It does not connect yet.

    Raises:
        ConfigurationError: no engine can be created for it; the text says what to write or to install.
        OutboxError: the file does not exist.
    """
    engine = _engine(_parsed(url))
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def administration_of(url: str) -> Iterator[OutboxAdministration]:
    """Provide the administration of the outbox in this database; end the process with an error if the block fails."""
    with failures_shown(), database(url) as engine:
        yield OutboxAdministration(engine)


def dialect_of(url: str) -> str:
    """Return the database of this URL, ``postgresql`` or ``sqlite``, without connecting.

    Raises:
        ConfigurationError: it is not the URL of one of these.
    """
    return _parsed(url).get_backend_name()


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # which may quote the text
        raise ConfigurationError(
            f"--database-url, or DATABASE_URL, is not a URL of a database: {_FORMS}"
        ) from None
    if url.get_backend_name() not in {"postgresql", "sqlite"}:
        raise ConfigurationError(
            f"an outbox is on PostgreSQL or SQLite, and --database-url begins with {url.drivername}:// instead: {_FORMS}"
        )
    # Two of them in the text may be cut in ways that its parts do not show.
    if may_show_password(url) or (url.host is not None and text.count("@") > 1):
        raise ConfigurationError(
            "--database-url has an @ too many: write %40 for each @ of a user, a password or an option, and %2F for each /"
        )
    return url


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite" and _is_missing(url.database):
        # SQLite would create an empty one after any typing mistake.
        raise OutboxError(f"there is no database file {url.database}, seen from {Path.cwd()}")
    try:
        engine = create_engine(url)
    except NoSuchModuleError:
        raise ConfigurationError(f"SQLAlchemy does not support {url.drivername}://: {_FORMS}") from None
    except ImportError as error:
        install = (
            "pip install 'psycopg[binary]' and write postgresql+psycopg://, or install that"
            if url.get_backend_name() == "postgresql"
            else "write sqlite:///file.db"
        )
        raise ConfigurationError(
            f"{url.drivername}:// needs a module that cannot be imported, {error.name}: {install}"
        ) from None
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the text after the ? in --database-url cannot be used ({type(error).__name__})"
        ) from None
    if engine.dialect.is_async:
        raise ConfigurationError(f"{url.drivername}:// is for asyncio, which commands do without: {_FORMS}")
    return engine


def _is_missing(file_name: str | None) -> bool:
    in_memory_or_uri = not file_name or file_name == ":memory:" or file_name.startswith("file:")
    return not in_memory_or_uri and not Path(file_name or "").exists()
