"""Messages, their deliveries, topics and queues."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

RESERVED_HEADER_PREFIX = "melange-"
"""Header names with this prefix are melange's own; callers may not use them."""

DEAD_LETTER_HEADER = "melange-dead-letter"
"""Carries, as JSON, why a message was dead-lettered."""

TRACE_HEADERS = re.compile(
    r"traceparent|tracestate|baggage|b3|x-b3-.*|x-amzn-trace-id|awstraceheader|x-ray-.*|sentry-trace|_datadog|x-datadog-.*"
    r"|newrelic|uber-trace-id",
    re.IGNORECASE,
)
"""The names of headers for tracing: other programs read them, and they may differ when the same message is sent again."""

JSON_CONTENT_TYPE = "application/json"

UNREADABLE = "unreadable: "
"""How the content type begins of a message that a driver received without its body; the reason follows."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Message(NamedTuple):
    """The form in which an event travels.

    ``body`` is the event's own JSON text. ``headers`` are the caller's (correlation id and the like),
    read-only. ``event_type_name`` and ``published_at`` (aware, UTC) are None when another program
    published the message and said neither. The two FIFO ids matter to FIFO topics and queues;
    on a standard queue a group id is a fairness key.

    A named tuple, as is ``Delivery``: two of each are made per event, at half the cost of frozen dataclasses.
    """

    message_id: str
    body: str
    event_type_name: str | None = None
    headers: Mapping[str, str] = NO_HEADERS
    published_at: datetime | None = None
    content_type: str = JSON_CONTENT_TYPE
    message_group_id: str | None = None
    message_deduplication_id: str | None = None

    def __repr__(self) -> str:
        """Leave the payload out, so that it is not logged by accident."""
        return (
            f"Message(message_id={self.message_id!r}, event_type_name={self.event_type_name!r}, "
            f"body=<{len(self.body):,} characters>)"
        )


def content_of(message: Message) -> tuple[str, ...]:
    """Return type, body and headers, which differ for another message with the same id.

    Headers for tracing, and melange's own, are not included: they may differ when the same message is sent again.
    """
    content = (message.event_type_name or "", message.body)
    if not message.headers:
        return content
    texts: list[str] = []
    for name in sorted(message.headers):
        if not name.lower().startswith(RESERVED_HEADER_PREFIX) and not TRACE_HEADERS.fullmatch(name):
            texts += (name, message.headers[name])
    return (*content, *texts)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as its driver knows it: made by the driver, opaque to all other code.

    ``address`` is unique among all topics of all brokers.
    """

    name: str
    address: str
    is_fifo: bool = False
    max_message_bytes: int = 262_144


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as its driver knows it: made by the driver, opaque to all other code.

    ``address`` is unique among all queues of all brokers: marks of finished work are stored under it.

    The broker itself moves a message to ``dead_letter_queue`` after ``max_receive_count`` receives without an
    acknowledgement.
    """

    name: str
    address: str
    is_fifo: bool = False
    max_message_bytes: int = 1_048_576
    dead_letter_queue: Queue | None = None
    max_receive_count: int | None = None


class Delivery(NamedTuple):
    """One receipt of a message from a queue.

    Until ``deadline`` (seconds of the driver's monotonic clock, measured from before the receive
    was sent) no other receiver is given the message. ``receive_count`` is 1 the first time. The
    ``receipt_handle`` is a secret between driver and broker. ``broker_message_id`` is the id that the broker itself gave
    the message, which no sender can choose; "" where it gives none. ``received`` is what the driver keeps to send the
    message on as it was received; no other code reads it.
    """

    message: Message
    queue: Queue
    receipt_handle: str
    receive_count: int
    deadline: float
    broker_message_id: str = ""
    received: object = None

    def __repr__(self) -> str:
        """Leave the receipt handle out."""
        return (
            f"Delivery(message={self.message!r}, queue={self.queue.name!r}, "
            f"receive_count={self.receive_count}, deadline={self.deadline})"
        )


_MADE_AHEAD = 128
_UUID_FORM = b"........-....-4...-a...-............ "
_RANDOM_COLUMNS = [column for column, character in enumerate(_UUID_FORM) if character == ord(".")]

_uuids: list[str] = []
"""Made ahead: one call to the operating system for each takes ten times as long."""
if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_uuids.clear)


def new_uuid() -> str:
    """Return a version 4 UUID that cannot be guessed: its digits come from the operating system. Thread-safe."""
    try:
        return _uuids.pop()
    except IndexError:
        made = _random_uuids()
        first = made.pop()
        _uuids.extend(made)
        return first


def _random_uuids() -> list[str]:
    digits = os.urandom(_MADE_AHEAD * len(_RANDOM_COLUMNS) // 2).hex().encode()
    text = bytearray(_UUID_FORM * _MADE_AHEAD)
    # Column by column, for all of them at once: a fifth of the time of slices and an f-string for each.
    for place, column in enumerate(_RANDOM_COLUMNS):
        text[column :: len(_UUID_FORM)] = digits[place :: len(_RANDOM_COLUMNS)]
    return text.decode().split()


handled_message: ContextVar[Message | None] = ContextVar("melange.handled_message", default=None)
"""Set around each run of a listener."""


def message_being_handled() -> Message | None:
    """Return the message that the current listener works on, in this thread or task; None outside of a listener."""
    return handled_message.get()


CORRELATION_HEADER = "correlation-id"
"""The same for all messages that go back to one first message: the id of that message, or what its publisher gave."""

CAUSATION_HEADER = "causation-id"
"""The id of the message that was being handled when this one was published."""


LONGEST_CORRELATION_ID = 256


def correlation_id_of(message: Message) -> str:
    """Return the correlation id of a message: its own id, if it has none that can be copied and logged."""
    return _id_in(message, CORRELATION_HEADER) or message.message_id


def _id_in(message: Message, header_name: str) -> str | None:
    """Return an id that strangers may have written: a long one would fill the messages and logs of others."""
    given = message.headers.get(header_name)
    is_usable = given and len(given) <= LONGEST_CORRELATION_ID and given.isprintable()
    return given if is_usable else None


def caused_by(cause: Message) -> dict[str, str]:
    """Return the headers of a message that is published while ``cause`` is handled."""
    return {CORRELATION_HEADER: correlation_id_of(cause), CAUSATION_HEADER: cause.message_id}


def log_fields(message: Message) -> dict[str, str]:
    """Return the ids of a message as fields of a log record."""
    fields = {"message_id": message.message_id, "correlation_id": correlation_id_of(message)}
    causation_id = _id_in(message, CAUSATION_HEADER)
    return fields if causation_id is None else {**fields, "causation_id": causation_id}


def delivery_log_fields(delivery: Delivery) -> dict[str, object]:
    """Return the ids of a delivered message, its queue and its receive count as fields of a log record."""
    return {
        **log_fields(delivery.message),
        "queue_name": delivery.queue.name,
        "receive_count": delivery.receive_count,
    }


class CorrelationFilter(logging.Filter):
    """Gives each record that is logged in a listener the ids of its message, as ``extra`` would. It drops nothing.

    Add it to a handler, so that it sees the records of all loggers. ``melange worker`` has it already.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add ``message_id``, ``correlation_id`` and ``causation_id``, where the record does not have them."""
        cause = message_being_handled()
        if cause is not None:
            for name, value in log_fields(cause).items():
                record.__dict__.setdefault(name, value)
        return True
