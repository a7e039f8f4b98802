"""Messaging for event-driven Python applications: publish to topics, consume from queues.

The same program runs on Amazon SNS and SQS, and in memory on a laptop. Importing melange imports no client library of
a broker: a driver imports its own when it is chosen.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from melange.backoff import Backoff
from melange.drivers.base import NO_DEAD_LETTER_QUEUE, MessagingDriver
from melange.drivers.registry import DriverManager
from melange.errors import (
    AccessDeniedError,
    CascadeError,
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
    OutboxError,
    PartialFailure,
    PublishError,
    QueueNotFoundError,
    Reject,
    Retry,
    SerializationError,
    TimeLimitExceeded,
    TopicNotFoundError,
    UnknownDriverError,
)
from melange.events import EventMessage
from melange.middleware import Middleware
from melange.publishing import ExchangeMessagePublisher, QueueMessagePublisher
from melange.publishing.gathering import Gathering
from melange.serialization.serializer import EventSerializer, upcast

__all__ = [
    "NO_DEAD_LETTER_QUEUE",
    "NO_DEDUPLICATION",
    "AccessDeniedError",
    "Backoff",
    "CascadeError",
    "ConfigurationError",
    "DecodeError",
    "Deduplication",
    "DeduplicationError",
    "DeduplicationStore",
    "DomainEvent",
    "DomainEventBus",
    "DomainSubscriber",
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
    "Gathering",
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
    "OutboxError",
    "PartialFailure",
    "PublishError",
    "QueueMessagePublisher",
    "QueueNotFoundError",
    "QueueOptions",
    "RedisDeduplicationStore",
    "Reject",
    "Retry",
    "RetryPolicy",
    "SerializationError",
    "ThreadedExchangeMessageConsumer",
    "TimeLimitExceeded",
    "TopicNotFoundError",
    "UnknownDriverError",
    "Worker",
    "masked_body",
    "upcast",
]

# Applications decide where logs go; a library stays silent until they do.
logging.getLogger("melange").addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from melange.consuming.consumer import ExchangeMessageConsumer
    from melange.consuming.listener import ExchangeListener
    from melange.consuming.options import Deduplication, QueueOptions, RetryPolicy
    from melange.consuming.threaded_consumer import ThreadedExchangeMessageConsumer
    from melange.consuming.worker import Worker
    from melange.deduplication import (
        NO_DEDUPLICATION,
        DeduplicationStore,
        MemoryDeduplicationStore,
        RedisDeduplicationStore,
    )
    from melange.domain import DomainEvent, DomainEventBus, DomainSubscriber
    from melange.serialization.masking import masked_body
    from melange.serialization.schema import EventSchema
else:  # hidden from type checkers, which would take any name for one that may exist
    # Only programs that use one of these pay for what it imports: a client library, asyncio, marshmallow, the consumer.
    _IMPORTED_WHEN_ASKED_FOR = {
        "Deduplication": "melange.consuming.options",
        "DeduplicationStore": "melange.deduplication",
        "DomainEvent": "melange.domain",
        "DomainEventBus": "melange.domain",
        "DomainSubscriber": "melange.domain",
        "EventSchema": "melange.serialization.schema",
        "ExchangeListener": "melange.consuming.listener",
        "ExchangeMessageConsumer": "melange.consuming.consumer",
        "MemoryDeduplicationStore": "melange.deduplication",
        "NO_DEDUPLICATION": "melange.deduplication",
        "QueueOptions": "melange.consuming.options",
        "RedisDeduplicationStore": "melange.deduplication",
        "RetryPolicy": "melange.consuming.options",
        "ThreadedExchangeMessageConsumer": "melange.consuming.threaded_consumer",
        "Worker": "melange.consuming.worker",
        "masked_body": "melange.serialization.masking",
    }

    def __getattr__(name: str) -> object:
        module_name = _IMPORTED_WHEN_ASKED_FOR.get(name)
        if module_name is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(module_name), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
