"""The limits of SNS and SQS, checked before any network call, and messages as attributes.

The in-memory driver checks the same. A message's id, type and headers become at most ten text attributes.

Sources: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-quotas.html and the
API references of SendMessage, CreateQueue, Publish and CreateTopic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TypeGuard

from melange.drivers.base import Capabilities
from melange.errors import ConfigurationError, InvalidMessageError, InvalidNameError, MessageTooLargeError
from melange.messages import JSON_CONTENT_TYPE, NO_HEADERS, TRACE_HEADERS, Message, Queue

FIFO_SUFFIX = ".fifo"
MAX_DELAY_SECONDS = 900
MAX_VISIBILITY_SECONDS = 43_200
MAX_WAIT_SECONDS = 20
MAX_BATCH = 10
MAX_IN_FLIGHT = 120_000
DEDUPLICATION_SECONDS = 300
MIN_RETENTION_SECONDS = 60
MAX_RETENTION_SECONDS = 1_209_600
DEFAULT_RETENTION_SECONDS = 345_600
MAX_ATTRIBUTES = 10
MAX_NAME_CHARACTERS = 256

SQS_CAPABILITIES = Capabilities(
    fifo=True,
    dead_letter_queues=True,
    event_filters=True,
    max_visibility_seconds=MAX_VISIBILITY_SECONDS,
    max_wait_seconds=MAX_WAIT_SECONDS,
    max_receive_batch=MAX_BATCH,
)

IDENTIFIER = re.compile(r"[A-Za-z0-9!-/:-@\[-`{-~]{1,128}")
"""The allowed message, group and deduplication ids."""

FORBIDDEN_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""The characters that neither a body nor an attribute may contain.

All but #x9, #xA, #xD, and #x20 to #xD7FF, #xE000 to #xFFFD, and #x10000 to #x10FFFF."""

ATTRIBUTE_NAME = re.compile(
    r"(?!.*\.\.)(?!(?:aws|amazon)\.)[a-z0-9_-](?:[a-z0-9_.-]{0,254}[a-z0-9_-])?",
    re.IGNORECASE | re.ASCII,  # without, the Kelvin sign is a K
)

_CONTROL_CHARACTERS = bytes(set(range(0x20)) - set(b"\t\n\r"))

_SMALL_ATTRIBUTES_BYTES = 4_096
"""An upper bound of the bytes of the attributes of a message without headers."""

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


def check_message(message: Message, *, max_bytes: int, is_fifo: bool) -> None:
    """Raise if SNS or SQS would refuse the message.

    Raises:
        InvalidMessageError: an id, header or character that is not allowed, or a missing body or id.
        MessageTooLargeError: body and attributes together exceed ``max_bytes``.
    """
    message_id, body, event_type_name, headers, _, _, group_id, deduplication_id = message
    if not isinstance(message_id, str) or not IDENTIFIER.fullmatch(message_id):
        raise _bad_identifier("message id", message_id, message)
    if not body:
        raise InvalidMessageError(
            f"message {message_id} has an empty body, which brokers refuse: publish an event"
        )
    # The fastest search for control characters: half the time of a regular expression or isprintable().
    if not body.isascii() or len(body.encode().translate(None, _CONTROL_CHARACTERS)) != len(body):
        _check_characters(body, "body", message_id)
    # Most type names are identifiers, and those hold nothing that is forbidden.
    if event_type_name is not None and not (
        isinstance(event_type_name, str)
        and event_type_name.isidentifier()
        and len(event_type_name) <= MAX_NAME_CHARACTERS
    ):
        _check_event_type_name(event_type_name, message_id)
    # An exact count of bytes costs more than all other checks, so small messages skip it.
    characters = len(body)
    if headers:
        _check_headers(headers, message_id)
        # Folded headers have quotes, and an escape for each character; the others have a type.
        characters += sum([3 * len(name) + 3 * len(value) + 4 for name, value in headers.items()])
    if is_fifo or group_id is not None or deduplication_id is not None:
        _check_group_and_deduplication_id(message, is_fifo)
    if 4 * characters + _SMALL_ATTRIBUTES_BYTES > max_bytes:
        size = message_size(message)
        if size > max_bytes:
            raise MessageTooLargeError(message_id, size, max_bytes)


def check_delay(queue: Queue, delay_seconds: int) -> None:
    """Raise unless messages to this queue may have this delay.

    Raises:
        ConfigurationError: it is not a whole number of seconds up to 900.
        InvalidMessageError: the queue is FIFO.
    """
    check_whole_seconds("delay_seconds", delay_seconds, 0, MAX_DELAY_SECONDS)
    if delay_seconds and queue.is_fifo:
        raise InvalidMessageError(
            f"queue {queue.name!r} is FIFO and has no delay for a single message: leave delay_seconds= out"
        )


def check_receive(limit: int, wait_seconds: int, visibility_timeout_seconds: int) -> None:
    """Raise ``ConfigurationError`` unless a receive may have these arguments; more than ten are taken as ten."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(f"limit must be a whole number of at least 1, not {limit!r}")
    check_whole_seconds("wait_seconds", wait_seconds, 0, MAX_WAIT_SECONDS)
    check_whole_seconds("visibility_timeout_seconds", visibility_timeout_seconds, 0, MAX_VISIBILITY_SECONDS)


def check_whole_seconds(name: str, value: int, lowest: int, highest: int) -> None:
    """Raise ``ConfigurationError`` unless ``value`` is a whole number of seconds between the bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ConfigurationError(
            f"{name} must be a whole number of seconds from {lowest} to {highest:,}, not {value!r}"
        )


def _check_group_and_deduplication_id(message: Message, is_fifo: bool) -> None:
    for kind, identifier in (
        ("message group id", message.message_group_id),
        ("message deduplication id", message.message_deduplication_id),
    ):
        if identifier is not None and not (isinstance(identifier, str) and IDENTIFIER.fullmatch(identifier)):
            raise _bad_identifier(kind, identifier, message)
    if not is_fifo:
        if message.message_deduplication_id is not None:
            raise InvalidMessageError(
                f"message {message.message_id} has a message_deduplication_id=, which only FIFO topics and queues "
                "take: leave it out, or use a name that ends in .fifo"
            )
    elif message.message_group_id is None:
        raise InvalidMessageError(
            f"message {message.message_id} needs message_group_id=: a FIFO topic or queue keeps order within it"
        )
    elif message.message_deduplication_id is None:
        raise InvalidMessageError(
            f"message {message.message_id} needs message_deduplication_id=: a FIFO topic or queue drops repetitions "
            "by it"
        )


def _bad_identifier(kind: str, identifier: object, message: Message) -> InvalidMessageError:
    return InvalidMessageError(
        f"the {kind} {identifier!r:.140} of message {message.message_id!r:.140} must be 1 to 128 letters, digits "
        "and ASCII punctuation marks"
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
    _check_characters(value, "event type name", message_id)


def _check_characters(text: str, kind: str, message_id: str) -> None:
    forbidden = FORBIDDEN_CHARACTER.search(text)
    if forbidden:
        raise InvalidMessageError(
            f"the {kind} of message {message_id} contains U+{ord(forbidden[0]):04X} at position "
            f"{forbidden.start()}, a character that SQS does not accept"
        )


ATTRIBUTE_TYPE = "String"

NUMBER_ATTRIBUTE = "ExtendedPayloadSize"
"""A header that is a number on the wire: AWS's extended clients write it so. The name of its type is as long."""
MESSAGE_ID_ATTRIBUTE = "melange-message-id"
EVENT_TYPE_ATTRIBUTE = "melange-event-type"
PUBLISHED_AT_ATTRIBUTE = "melange-published-at"
"""Of messages that were made some time before they are sent: of others SQS knows the time."""

CONTENT_TYPE_ATTRIBUTE = "melange-content-type"
"""Of messages that are not JSON."""

FOLDED_HEADERS_ATTRIBUTE = "melange-headers"
"""A JSON object with the headers that do not fit or are empty."""

OWN_ATTRIBUTES = frozenset(
    {
        MESSAGE_ID_ATTRIBUTE,
        EVENT_TYPE_ATTRIBUTE,
        PUBLISHED_AT_ATTRIBUTE,
        CONTENT_TYPE_ATTRIBUTE,
        FOLDED_HEADERS_ATTRIBUTE,
    }
)

_SENT_AT_ONCE = timedelta(seconds=5)

_NEVER_HEADERS = OWN_ATTRIBUTES - {FOLDED_HEADERS_ATTRIBUTE}


def message_size(message: Message) -> int:
    """Return the bytes that the broker counts: body, and each attribute's name, type and value."""
    attributes = attributes_of(message)
    return len(message.body.encode()) + sum(
        len(name) + len(ATTRIBUTE_TYPE) + len(value.encode()) for name, value in attributes.items()
    )


def attributes_of(message: Message) -> dict[str, str]:
    """Return the message's attributes, at most ten, none of them empty."""
    attributes = {MESSAGE_ID_ATTRIBUTE: message.message_id}
    if message.event_type_name:
        attributes[EVENT_TYPE_ATTRIBUTE] = message.event_type_name
    # Each attribute costs CPU time on both sides, and one of ten places: what the receiver knows anyway stays out.
    if message.content_type != JSON_CONTENT_TYPE:
        attributes[CONTENT_TYPE_ATTRIBUTE] = message.content_type
    published_at = message.published_at
    if published_at and not (published_at.tzinfo and abs(datetime.now(UTC) - published_at) <= _SENT_AT_ONCE):
        attributes[PUBLISHED_AT_ATTRIBUTE] = published_at.isoformat()
    if message.headers:
        attributes.update(_fold(message.headers, room=MAX_ATTRIBUTES - len(attributes)))
    return attributes


def message_from_attributes(
    body: str,
    attributes: Mapping[str, str],
    *,
    fallback_message_id: str,
    sent_at: datetime | None = None,
    message_group_id: str | None = None,
    message_deduplication_id: str | None = None,
) -> Message:
    """Return the message with these attributes; attributes of other publishers become headers.

    ``sent_at`` is the broker's time of sending, for messages that do not say when they were published. Other publishers
    may use our names. The result can always be sent again, for example to a dead-letter queue.
    """
    message_id = attributes.get(MESSAGE_ID_ATTRIBUTE, "")
    event_type_name = attributes.get(EVENT_TYPE_ATTRIBUTE, "")
    headers, published_at, content_type = NO_HEADERS, sent_at, JSON_CONTENT_TYPE
    if len(attributes) > 2 or not (message_id and event_type_name):  # most have these two only
        headers = _unfold(attributes)
        published_at = _parse_time(attributes.get(PUBLISHED_AT_ATTRIBUTE)) or sent_at
        content_type = attributes.get(CONTENT_TYPE_ATTRIBUTE, JSON_CONTENT_TYPE)
    return tuple.__new__(  # in half of the time of the class's own function
        Message,
        (
            message_id if IDENTIFIER.fullmatch(message_id) else fallback_message_id,
            body,
            event_type_name if 0 < len(event_type_name) <= MAX_NAME_CHARACTERS else None,
            headers,
            published_at,
            content_type,
            message_group_id,
            message_deduplication_id,
        ),
    )


def _fold(headers: Mapping[str, str], room: int) -> dict[str, str]:
    plain = {name: value for name, value in headers.items() if value and name != FOLDED_HEADERS_ATTRIBUTE}
    if len(plain) == len(headers) <= room:
        return plain
    # Headers for tracing come first: other programs look for them as attributes.
    ordered = sorted(plain, key=lambda name: not TRACE_HEADERS.fullmatch(name))
    kept = {name: plain[name] for name in ordered[: room - 1]}
    folded = {name: value for name, value in headers.items() if name not in kept}
    return {**kept, FOLDED_HEADERS_ATTRIBUTE: json.dumps(folded, separators=(",", ":"))}


def _unfold(attributes: Mapping[str, str]) -> Mapping[str, str]:
    if len(attributes) <= len(OWN_ATTRIBUTES) and OWN_ATTRIBUTES.issuperset(attributes):
        folded = attributes.get(FOLDED_HEADERS_ATTRIBUTE)
        return MappingProxyType(_parse_folded(folded)) if folded else NO_HEADERS
    headers = {name: value for name, value in attributes.items() if name not in OWN_ATTRIBUTES}
    return MappingProxyType(headers | _parse_folded(attributes.get(FOLDED_HEADERS_ATTRIBUTE, "{}")))


def _parse_folded(text: str) -> dict[str, str]:
    # A value that we did not write is passed on unchanged.
    try:
        folded = json.loads(text)
    except (ValueError, RecursionError):
        return {FOLDED_HEADERS_ATTRIBUTE: text}
    if not isinstance(folded, dict) or not all(map(_is_header, folded.items())):
        return {FOLDED_HEADERS_ATTRIBUTE: text}
    # A header must not replace the id or the type when the message is sent again.
    return {name: value for name, value in folded.items() if name not in _NEVER_HEADERS}


def can_travel(text: object) -> TypeGuard[str]:
    """Return True if SNS and SQS accept ``text`` as a body or as an attribute's value."""
    return isinstance(text, str) and text != "" and not FORBIDDEN_CHARACTER.search(text)


def _is_header(item: tuple[str, object]) -> bool:
    name, value = item
    return bool(ATTRIBUTE_NAME.fullmatch(name)) and (value == "" or can_travel(value))


def _parse_time(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
