"""What a message says about itself to a reader: its type, and its text, which Celery sends as JSON in Base64."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from melange.drivers.sqs_rules import EVENT_TYPE_ATTRIBUTE

_TYPE_ATTRIBUTES = (EVENT_TYPE_ATTRIBUTE, "event_type_name", "event_type", "eventType", "type", "MessageType")
"""Attributes that programs keep the type of a message in; the first one that is there counts."""

_BEGINNINGS = ("ey", "ew")
"""Base64 of a brace with a quote or white space behind it. Bodies without it need no attempt."""


def type_in(attributes: Mapping[str, str]) -> str:
    """Return the type that attributes give their message; "" if they give none."""
    return next((attributes[name] for name in _TYPE_ATTRIBUTES if attributes.get(name)), "")


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
