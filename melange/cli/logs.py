"""Log records as lines of text or JSON. No content can look like another record.

Text for people: time, level, process, logger, message, then ``name=value`` fields. In a terminal a traceback
follows on indented lines; elsewhere it is a field, so that a record stays one line. Line breaks and other
characters that do not print are written as escapes.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from datetime import UTC, datetime

from melange.messages import CorrelationFilter

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

_CLIENT_LIBRARIES = ("boto3", "botocore", "redis", "s3transfer", "urllib3")
"""On DEBUG they log whole requests: bodies, receipt handles, signatures."""

_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}


def configure(level: str, log_format: str) -> None:
    """Write the records of the whole program to standard error, from this level on.

    Call it before the program's own code is imported, so that the program can override it.
    """
    handler = logging.StreamHandler()
    in_terminal = sys.stderr is not None and sys.stderr.isatty()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(in_terminal=in_terminal))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    handler.addFilter(CorrelationFilter())
    for name in _CLIENT_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def are_json() -> bool:
    """Return True if ``configure`` set JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def printable(text: str) -> str:
    """Return ``text`` with escapes in place of line breaks, control characters and whatever else does not print."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def printable_lines(text: str) -> list[str]:
    """Return the lines of a traceback, each of them printable."""
    return [printable(line) for line in text.rstrip("\n").split("\n")]


class TextFormatter(logging.Formatter):
    """Lines for people."""

    def __init__(self, *, in_terminal: bool = False) -> None:
        super().__init__()
        self._in_terminal = in_terminal

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line; in a terminal the lines of its traceback follow, indented."""
        fields = _fields(record)
        traceback = _traceback(self, record)
        if traceback and not self._in_terminal:
            fields["traceback"] = traceback
        head = (
            f"{_time(record)} {record.levelname:<8} [{record.process}] {record.name}: {record.getMessage()}"
        )
        line = " ".join([printable(head), *(f"{name}={_quoted(value)}" for name, value in fields.items())])
        if traceback and self._in_terminal:
            return "\n    ".join([line, *printable_lines(traceback)])
        return line


class JsonFormatter(logging.Formatter):
    """Lines for machines: one JSON object each; the program's ``extra`` values are keys of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        traceback = _traceback(self, record)
        if traceback:
            line["traceback"] = traceback
        return json.dumps(line)  # in ASCII, so that nothing in it breaks a line


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Return the program's ``extra`` values as JSON values."""
    return {
        name: value if _is_plain(value) else repr(value)
        for name, value in vars(record).items()
        if name not in _OF_EVERY_RECORD
    }


def _is_plain(value: object) -> bool:
    return (
        value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
    )


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _quoted(value: object) -> str:
    text = str(value)
    if text and not any(character in text for character in ' "='):
        return printable(text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'
