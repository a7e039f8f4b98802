"""What SNS and SQS refuse, found out before the network; the in-memory driver refuses the same.

Sources: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-quotas.html and the
API references of SendMessage, CreateQueue, Publish and CreateTopic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from melange.drivers.attributes import (
    ATTRIBUTE_NAME,
    FORBIDDEN_CHARACTER,
    IDENTIFIER,
    MAX_NAME_CHARACTERS,
    attributes_of,
)
from melange.errors import ConfigurationError, InvalidMessageError, InvalidNameError, MessageTooLargeError
from melange.messages import Message

FIFO_SUFFIX = ".fifo"
MAX_DELAY_SECONDS = 900
MAX_VISIBILITY_SECONDS = 43_200
MAX_WAIT_SECONDS = 20
MAX_BATCH = 10
MAX_BATCH_BYTES = 1_048_576
MAX_IN_FLIGHT = 120_000
DEDUPLICATION_SECONDS = 300
ATTRIBUTE_TYPE = "String"
MIN_RETENTION_SECONDS = 60
MAX_RETENTION_SECONDS = 1_209_600
DEFAULT_RETENTION_SECONDS = 345_600

_CONTROL_CHARACTERS = bytes(set(range(0x20)) - set(b"\t\n\r"))

_SMALL_ATTRIBUTES_BYTES = 4_096
"""More than the attributes of a message without headers can take."""

_QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}|(?=.{6,80}\Z)[A-Za-z0-9_-]+\.fifo")
_TOPIC_NAME = re.compile(r"[A-Za-z0-9_-]{1,256}|(?=.{6,256}\Z)[A-Za-z0-9_-]+\.fifo")


def check_queue_name(name: str) -> None:
    """Raise ``InvalidNameError`` for a name that SQS would refuse."""
    if not isinstance(name, str) or not _QUEUE_NAME.fullmatch(name):
        raise InvalidNameError(
            "queue",
            name,
            "1 to 80 letters, digits, hyphens and underscores, at the end .fifo for a FIFO queue",
        )


def check_topic_name(name: str) -> None:
    """Raise ``InvalidNameError`` for a name that SNS would refuse."""
    if not isinstance(name, str) or not _TOPIC_NAME.fullmatch(name):
        raise InvalidNameError(
            "topic",
            name,
            "1 to 256 letters, digits, hyphens and underscores, at the end .fifo for a FIFO topic",
        )


def check_message(
    message: Message, *, max_bytes: int, is_fifo: bool, content_based_deduplication: bool = False
) -> None:
    """Raise if SNS or SQS would refuse the message.

    Raises:
        InvalidMessageError: an id, header or character that is not allowed, or something missing.
        MessageTooLargeError: body and attributes together exceed ``max_bytes``.
    """
    message_id = message.message_id
    _check_identifier(message_id, "message id", message_id)
    if not message.body:
        raise InvalidMessageError(f"message {message_id} has an empty body, which no broker takes")
    _check_characters(message.body, "body", message_id)
    if message.event_type_name is not None:
        _check_event_type_name(message.event_type_name, message_id)
    if message.headers:
        _check_headers(message.headers, message_id)
    if message.message_group_id is not None:
        _check_identifier(message.message_group_id, "message group id", message_id)
    if message.message_deduplication_id is not None:
        _check_identifier(message.message_deduplication_id, "message deduplication id", message_id)
    if is_fifo:
        _check_fifo(message, content_based_deduplication)
    elif message.message_deduplication_id is not None:
        raise InvalidMessageError(
            f"message {message_id} has a message_deduplication_id=, which only FIFO topics and queues take: leave it "
            "out, or publish to one whose name ends in .fifo"
        )
    # Counting bytes exactly costs more than all of the above: small messages are let off.
    if message.headers or 4 * len(message.body) + _SMALL_ATTRIBUTES_BYTES > max_bytes:
        size = message_size(message)
        if size > max_bytes:
            raise MessageTooLargeError(message_id, size, max_bytes)


def message_size(message: Message) -> int:
    """Return the bytes that the broker counts: body, and each attribute's name, type and value."""
    attributes = attributes_of(message)
    return len(message.body.encode()) + sum(
        len(name) + len(ATTRIBUTE_TYPE) + len(value.encode()) for name, value in attributes.items()
    )


def check_whole_seconds(name: str, value: int, lowest: int, highest: int) -> None:
    """Raise ``ConfigurationError`` unless ``value`` is a whole number of seconds between the bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ConfigurationError(
            f"{name} must be a whole number of seconds from {lowest} to {highest:,}, not {value!r}"
        )


def _check_identifier(identifier: str, kind: str, message_id: str) -> None:
    if not isinstance(identifier, str) or not IDENTIFIER.fullmatch(identifier):
        raise InvalidMessageError(
            f"the {kind} {identifier!r:.140} of message {message_id!r:.140} must be 1 to 128 letters, digits "
            "and ASCII punctuation marks"
        )


def _check_fifo(message: Message, content_based_deduplication: bool) -> None:
    if message.message_group_id is None:
        raise InvalidMessageError(
            f"message {message.message_id} needs message_group_id=: a FIFO topic or queue keeps order within it"
        )
    if message.message_deduplication_id is None and not content_based_deduplication:
        raise InvalidMessageError(
            f"message {message.message_id} needs message_deduplication_id=: this FIFO topic or queue does not "
            "derive it from the content"
        )


def _check_headers(headers: Mapping[str, str], message_id: str) -> None:
    for name, value in headers.items():
        if not isinstance(name, str) or not ATTRIBUTE_NAME.fullmatch(name):
            raise InvalidMessageError(
                f"the header name {name!r:.140} of message {message_id} must be 1 to 256 letters, digits, '-', '_' "
                "and '.' (not first, last or twice in a row), and not begin with 'AWS.' or 'Amazon.'"
            )
        if not isinstance(value, str):
            raise InvalidMessageError(
                f"the header {name!r} of message {message_id} must be text, not {type(value).__name__}"
            )
        _check_characters(value, f"header {name!r}", message_id)


def _check_event_type_name(value: str, message_id: str) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidMessageError(f"the event type name of message {message_id} must be text and not empty")
    if len(value) > MAX_NAME_CHARACTERS:
        raise InvalidMessageError(
            f"the event type name of message {message_id} has {len(value)} characters, {MAX_NAME_CHARACTERS} are allowed"
        )
    if not value.isidentifier():  # most are, and hold nothing that is forbidden
        _check_characters(value, "event type name", message_id)


def _check_characters(text: str, kind: str, message_id: str) -> None:
    # The quickest look for control characters, at half of what a regular expression or isprintable() costs.
    if text.isascii() and len(text.encode().translate(None, _CONTROL_CHARACTERS)) == len(text):
        return
    forbidden = FORBIDDEN_CHARACTER.search(text)
    if forbidden:
        raise InvalidMessageError(
            f"the {kind} of message {message_id} contains U+{ord(forbidden[0]):04X} at position "
            f"{forbidden.start()}, a character that SQS does not accept"
        )
