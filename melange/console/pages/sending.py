"""The forms that send a message to a queue and publish one to a topic."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from melange.console.backend import RefusedError
from melange.console.model import Draft, Queue, Topic
from melange.console.pages import Page, Redirect, Visit
from melange.console.reading import draft_of
from melange.messages import new_uuid

_ROWS = 10
"""A message has at most ten attributes."""


def show_send(visit: Visit) -> Page:
    _, queue = visit.find_queue()
    return _form(queue, _template(visit, queue.arn))


def send(visit: Visit) -> Page | Redirect:
    _, queue = visit.find_queue()
    return _sent(visit, queue, visit.backend.send, "Sent", f"queues/{queue.arn}")


def show_publish(visit: Visit) -> Page:
    _, topic = visit.find_topic()
    return _form(topic, _template(visit, topic.arn))


def publish(visit: Visit) -> Page | Redirect:
    _, topic = visit.find_topic()
    return _sent(visit, topic, visit.backend.publish, "Published", f"topics/{topic.arn}")


def _sent(
    visit: Visit, target: Queue | Topic, send: Callable[[str, Draft], str], done: str, path: str
) -> Page | Redirect:
    try:
        message_id = send(target.arn, _draft(visit))
    except RefusedError as error:
        return _refused(visit, target, str(error))
    story = f"log/{message_id}" if visit.backend.log else ""
    return Redirect(path, f"{done}: message {message_id}.", story)


def _template(visit: Visit, arn: str) -> dict[str, Any]:
    """Return the fields of a form that is like another message: that of the query, or the last one."""
    if "empty" in visit.query:
        return _fields(Draft(""))
    like, of = visit.query.get("like"), visit.query.get("of", arn)
    draft = draft_of(visit.backend.message(of, like)) if like else visit.backend.last_draft(arn)
    return _fields(draft or Draft("")) | {"is_copy": draft is not None}


def _form(target: Queue | Topic, fields: Mapping[str, Any], error: str = "", status: int = 200) -> Page:
    values = {
        "target": target,
        "is_topic": isinstance(target, Topic),
        "needs_id": target.is_fifo and target.attributes.get("ContentBasedDeduplication") != "true",
        "new_id": new_uuid(),
        "error": error,
        "fields": {"is_copy": False} | dict(fields),
    }
    return Page("send.html", values, status)


def _refused(visit: Visit, target: Queue | Topic, error: str) -> Page:
    """Return the form again, with all that was typed in."""
    names = ("body", "subject", "group_id", "deduplication_id", "delay_seconds")
    typed: dict[str, Any] = {name: visit.text(name) for name in names}
    return _form(target, typed | {"attributes": _padded(_rows(visit))}, error, 400)


def _fields(draft: Draft) -> dict[str, Any]:
    rows = [(name, str(value["DataType"]), _as_text(value)) for name, value in draft.attributes.items()]
    return {
        "body": draft.body,
        "subject": draft.subject or "",
        "group_id": draft.group_id or "",
        "deduplication_id": draft.deduplication_id or "",
        "delay_seconds": "" if draft.delay_seconds is None else str(draft.delay_seconds),
        "attributes": _padded(rows),
    }


def _draft(visit: Visit) -> Draft:
    body = visit.text("body")
    if visit.value("is_json"):
        _check_json(body)
    delay = visit.value("delay_seconds")
    if delay and not (delay.isascii() and delay.isdigit()):
        raise RefusedError("The delay is a number of seconds, from 0 to 900.")
    return Draft(
        body,
        dict(_attribute(*row) for row in _rows(visit)),
        subject=visit.value("subject") or None,
        group_id=visit.value("group_id") or None,
        deduplication_id=visit.value("deduplication_id") or None,
        delay_seconds=int(delay) if delay else None,
    )


def _check_json(body: str) -> None:
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        raise RefusedError(
            f"The body is not JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        ) from None
    except RecursionError:
        raise RefusedError("The body has too many brackets within brackets.") from None


def _rows(visit: Visit) -> list[tuple[str, str, str]]:
    columns = [visit.form.get(f"attribute_{part}", []) for part in ("name", "type", "value")]
    rows = [(name.strip(), kind.strip(), value) for name, kind, value in zip_longest(*columns, fillvalue="")]
    return [row for row in rows if row[0] or row[2]]


def _padded(rows: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return [*rows, *[("", "String", "")] * max(0, min(2, _ROWS - len(rows)))]


def _attribute(name: str, kind: str, value: str) -> tuple[str, dict[str, Any]]:
    if not name:
        raise RefusedError("An attribute with a value needs a name.")
    if not kind.startswith("Binary"):
        return name, {"DataType": kind or "String", "StringValue": value}
    try:
        return name, {"DataType": kind, "BinaryValue": b64decode(value, validate=True)}
    except binascii.Error:
        raise RefusedError(f"Write the value of the binary attribute {name} in Base64.") from None


def _as_text(value: Mapping[str, Any]) -> str:
    if "StringValue" in value:
        return str(value["StringValue"])
    return b64encode(value.get("BinaryValue", b"")).decode()
