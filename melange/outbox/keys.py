"""The topic and the key of a message in an outbox, checked; messages of one key leave in order."""

from __future__ import annotations

import re
import zlib
from uuid import UUID

from melange.drivers.sqs_rules import check_topic_name
from melange.errors import InvalidMessageError, InvalidNameError

Key = str | int | UUID

MAX_KEY_CHARACTERS = 256
_TOPIC_ARN = re.compile(r"arn:[a-z0-9-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")


def check_topic(topic: object) -> None:
    """Raise ``InvalidNameError`` unless it is a valid name or ARN of a topic."""
    if not isinstance(topic, str):
        raise InvalidNameError("topic", topic, "give its name as text, or its ARN")
    if not topic.startswith("arn:"):
        check_topic_name(topic)
    elif not _TOPIC_ARN.fullmatch(topic):
        raise InvalidNameError("topic", topic, "an ARN is arn:aws:sns:region:account:name")


def key_text_of(key: object) -> str:
    """Return the key in its stored form; raise ``InvalidMessageError`` if it is not valid."""
    text = str(key) if isinstance(key, (str, int, UUID)) and not isinstance(key, bool) else ""
    if not 0 < len(text) <= MAX_KEY_CHARACTERS or not text.isprintable():
        raise InvalidMessageError(
            f"the key {key!r:.140} must be 1 to {MAX_KEY_CHARACTERS} characters that print, a number or a UUID"
        )
    return text


def lock_key_of(topic: str, key: str) -> int:
    """Return a number of 32 bits, signed, for the messages that one relay at a time may send."""
    return zlib.crc32(f"{topic} {key}".encode()) - 2**31
