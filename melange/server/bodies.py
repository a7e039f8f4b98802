"""Bodies that are JSON in Base64, as Celery sends its tasks, so that they can be read and searched."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

_BEGINNINGS = ("ey", "ew")
"""Base64 of a brace with a quote or white space behind it. Bodies without it need no attempt."""


def decoded(body: str) -> str:
    """Return the text of the JSON object that a body holds in Base64; the body as it is if it holds none."""
    found = _object_in(body)
    return body if found is None else found[0]


def task_in(body: str) -> str | None:
    """Return the name of the task that Celery has put into a body; None if there is none."""
    task = _headers_in(body).get("task")
    return task if isinstance(task, str) and task else None


def summary(body: str) -> str:
    """Return the arguments of a task of Celery; of another body, what it holds."""
    headers = _headers_in(body)
    arguments = [str(headers[name]) for name in ("argsrepr", "kwargsrepr") if headers.get(name)]
    return " ".join(arguments) or decoded(body)


def _headers_in(body: str) -> dict[str, Any]:
    found = _object_in(body)
    headers = found[1].get("headers") if found else None
    return headers if isinstance(headers, dict) else {}


def _object_in(body: str) -> tuple[str, dict[str, Any]] | None:
    if not body.startswith(_BEGINNINGS):
        return None
    try:
        text = b64decode(body, validate=True).decode()
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return (text, document) if isinstance(document, dict) else None
