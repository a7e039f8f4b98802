"""Messaging for event-driven Python applications: publish to topics, consume from queues.

The same program runs on Amazon SNS+SQS and, in memory, on a laptop. Importing this imports no broker's client
library: a driver brings its own when it is chosen.
"""

import logging
from typing import TYPE_CHECKING

from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.listener import ExchangeListener
from melange.consuming.middleware import Middleware
from melange.consuming.outcomes import Backoff
from melange.consuming.threaded import ThreadedExchangeMessageConsumer
from melange.consuming.worker import Worker
from melange.deduplication import DeduplicationStore, MemoryDeduplicationStore
from melange.drivers.base import MessagingDriver
from melange.drivers.registry import DriverManager
from melange.errors import (
    AccessDeniedError,
    ConfigurationError,
    DecodeError,
    DeduplicationError,
    DriverClosedError,
    DriverConnectionError,
    DriverError,
    DuplicateHandlerError,
    EncodeError,
    HandlerNotFoundError,
    InvalidMessageError,
    InvalidNameError,
    LeaseLostError,
    MelangeError,
    MessageTooLargeError,
    NoDriverError,
    PublishError,
    QueueNotFoundError,
    Reject,
    Retry,
    SerializationError,
    TopicNotFoundError,
    UnknownDriverError,
)
from melange.events import EventMessage, EventSchema
from melange.publishing import ExchangeMessagePublisher, QueueMessagePublisher
from melange.serialization import EventSerializer

__all__ = [
    "AccessDeniedError",
    "Backoff",
    "ConfigurationError",
    "DecodeError",
    "DeduplicationError",
    "DeduplicationStore",
    "DriverClosedError",
    "DriverConnectionError",
    "DriverError",
    "DriverManager",
    "DuplicateHandlerError",
    "EncodeError",
    "EventMessage",
    "EventSchema",
    "EventSerializer",
    "ExchangeListener",
    "ExchangeMessageConsumer",
    "ExchangeMessagePublisher",
    "HandlerNotFoundError",
    "InvalidMessageError",
    "InvalidNameError",
    "LeaseLostError",
    "MelangeError",
    "MemoryDeduplicationStore",
    "MessageTooLargeError",
    "MessagingDriver",
    "Middleware",
    "NoDriverError",
    "PublishError",
    "QueueMessagePublisher",
    "QueueNotFoundError",
    "RedisDeduplicationStore",
    "Reject",
    "Retry",
    "SerializationError",
    "ThreadedExchangeMessageConsumer",
    "TopicNotFoundError",
    "UnknownDriverError",
    "Worker",
]

# Applications decide where logs go; a library stays silent until they do.
logging.getLogger("melange").addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from melange.deduplication import RedisDeduplicationStore
else:  # hidden from type checkers, which would take any name for one that may exist

    def __getattr__(name: str) -> object:
        # Only who asks for the Redis store pays for the import of its client library.
        if name == "RedisDeduplicationStore":
            from melange.deduplication import RedisDeduplicationStore  # noqa: PLC0415

            return RedisDeduplicationStore
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
