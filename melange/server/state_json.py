"""The state of a broker as JSON: the text of a snapshot file, and of what a file of ``--data`` holds."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Hashable
from dataclasses import asdict
from typing import Any

from melange.errors import ConfigurationError
from melange.server.sqs.messages import SentMessage
from melange.server.state import KeptCopy, KeptId, State

_FORMAT = 1


def content_of(message: SentMessage) -> str:
    """Return the JSON text of a message."""
    attributes = {
        name: {
            key: {"base64": b64encode(value).decode()} if isinstance(value, bytes) else value
            for key, value in attribute.items()
        }
        for name, attribute in message.attributes.items()
    }
    return json.dumps([message.body, attributes, message.sender_id, message.trace_header])


def message_of(content: str) -> SentMessage:
    """Return the message of a JSON text."""
    body, attributes, sender_id, trace_header = json.loads(content)
    read = {
        name: {
            key: b64decode(value["base64"]) if isinstance(value, dict) else value
            for key, value in attribute.items()
        }
        for name, attribute in attributes.items()
    }
    return SentMessage(body, read, sender_id=sender_id, trace_header=trace_header)


def key_of(value: Any) -> Hashable:
    """Return a deduplication id that was JSON: one by group is a pair."""
    return tuple(value) if isinstance(value, list) else value


def to_json(state: State) -> str:
    """Return the text of a snapshot file."""
    copies = [kept._replace(message=content_of(kept.message)) for kept in state.copies]  # type: ignore[arg-type]
    document = {"melange_server_snapshot": _FORMAT} | asdict(state) | {"copies": copies}
    return json.dumps(document)


def from_json(text: str | bytes) -> State:
    """Return the state of a snapshot file.

    Raises:
        ConfigurationError: it is not one.
    """
    try:
        document = json.loads(text)
        if document.pop("melange_server_snapshot") != _FORMAT:
            raise ConfigurationError("the snapshot was not written by this version of melange server")
        document["copies"] = [
            KeptCopy(number, arn, message_of(content), *rest)
            for number, arn, content, *rest in document["copies"]
        ]
        document["ids"] = [
            KeptId(arn, key_of(key), until, answer) for arn, key, until, answer in document["ids"]
        ]
        return State(**document)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConfigurationError("the body is not a snapshot of melange server") from None
