"""Errors of the database, in words that say what to do and quote no payload."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

_READ_ONLY = (
    "it is read-only here, and nothing is published that cannot be marked as sent: connect to the primary server, with "
    "a user and a file that can write"
)
_GRANT = "grant SELECT, UPDATE and DELETE on melange_outbox to this user"
_CREATE = "create the table: run what `melange outbox schema` prints, or call metadata.create_all(engine)"


def explained(error: BaseException) -> str:
    """Return what went wrong: the database's words, without the statement and its parameters."""
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
