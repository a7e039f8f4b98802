"""What errors of the database say, with advice and without passwords."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError, TimeoutError  # noqa: A004 - SQLAlchemy names it so

from melange.errors import ConfigurationError, DeduplicationError, MelangeError

_READ_ONLY = (
    "it is read-only here, and nothing is published or handled that cannot be marked: connect to the primary server, with "
    "a user and a file that can write"
)
_GRANT = "grant this user SELECT, UPDATE and DELETE on the table, and INSERT where it writes events or has an inbox"
_CREATE = "create the table: run what `melange outbox schema` prints, or call metadata.create_all(engine)"


def explained(error: BaseException) -> str:
    """Return the database's own text, without the statement and its parameters."""
    if isinstance(error, TimeoutError):
        return "every connection of the engine's pool is taken: allow as many as listeners run at once"
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    # One line: what SQLite and PostgreSQL add below it, may quote the statement.
    words = str(error).partition("\n")[0]
    text = f"{type(error).__name__}: {words}"
    advice = _advice(words, getattr(error, "sqlstate", None))
    return f"{text}; {advice}" if advice else text


def _advice(words: str, sqlstate: str | None) -> str | None:
    if sqlstate == "42P01" or "no such table: melange_" in words:
        return _CREATE
    if sqlstate == "25006" or "readonly database" in words:
        return _READ_ONLY
    if sqlstate == "42501":
        return _GRANT
    return None


@contextmanager
def mapped_errors(action: str) -> Iterator[None]:
    """Raise ``DeduplicationError`` for errors of the database or the connection in the block."""
    try:
        yield
    except MelangeError:
        raise
    except Exception as error:  # drivers for an event loop raise exceptions that SQLAlchemy does not wrap
        raise unavailable(action, error) from error


def unavailable(action: str, error: Exception) -> DeduplicationError:
    """Return the error with the failed action and the reason."""
    return DeduplicationError(f"can't {action}: {explained(error)}")


def require_whole_password(engine: Engine) -> None:
    """Raise ``ConfigurationError`` when each error of the database may show the end of its password."""
    if may_show_password(engine.url):
        raise ConfigurationError(
            "the engine's URL has an @ in its host, database or options, which is most likely part of the password: "
            "write %40 for each @ of a password, and %2F for each /"
        )


def may_show_password(url: URL) -> bool:
    """Return True if the host, the database or an option may be the end of a password.

    Of ``user:p@ss/word@host/db`` SQLAlchemy takes ``ss`` for the host, and drivers name it when they cannot connect;
    of ``us/er:word@host/db`` it takes the password into the database.
    """
    has_authority = url.username is not None or url.password is not None or url.host is not None
    options = [str(part) for option in url.query.items() for part in option]
    return has_authority and any("@" in part for part in (url.host or "", url.database or "", *options))
