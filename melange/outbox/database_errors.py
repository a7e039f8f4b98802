"""Errors of the database, in words that say what to do and quote no payload."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

_CREATE = "create the table: run what `melange outbox schema` prints, or call metadata.create_all(engine)"


def explained(error: BaseException) -> str:
    """Return what went wrong: the database's words, without the statement and its parameters."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    # One line: what SQLite and PostgreSQL add below it, may quote the statement.
    words = str(error).partition("\n")[0]
    text = f"{type(error).__name__}: {words}"
    return f"{text}; {_CREATE}" if _misses_table(error, words) else text


def _misses_table(error: BaseException, words: str) -> bool:
    return "no such table: melange_" in words or getattr(error, "sqlstate", None) == "42P01"
