"""The headers that say which message caused which: a message that is published while another one is handled names it."""

from __future__ import annotations

import logging

from melange.messages import Message, message_being_handled

CORRELATION_HEADER = "correlation-id"
"""The same for all messages that go back to one first message: the id of that message, or what its publisher gave."""

CAUSATION_HEADER = "causation-id"
"""The id of the message that was being handled when this one was published."""


def correlation_id_of(message: Message) -> str:
    """Return the correlation id of a message: its own id, if it has none."""
    return message.headers.get(CORRELATION_HEADER) or message.message_id


def caused_by(cause: Message) -> dict[str, str]:
    """Return the headers of a message that is published while ``cause`` is handled."""
    return {CORRELATION_HEADER: correlation_id_of(cause), CAUSATION_HEADER: cause.message_id}


def log_fields(message: Message) -> dict[str, str]:
    """Return the ids of a message as fields of a log record."""
    fields = {"message_id": message.message_id, "correlation_id": correlation_id_of(message)}
    causation_id = message.headers.get(CAUSATION_HEADER)
    return fields if causation_id is None else {**fields, "causation_id": causation_id}


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
