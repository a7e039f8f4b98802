"""Publishing events to topics, and sending them to queues."""

from melange.publishing.gathering import Gathering
from melange.publishing.outgoing import (
    Event,
    IdOf,
    PublishBatchOptions,
    PublishOptions,
    SendBatchOptions,
    SendOptions,
)
from melange.publishing.publisher import ExchangeMessagePublisher
from melange.publishing.queue_publisher import QueueMessagePublisher

__all__ = [
    "Event",
    "ExchangeMessagePublisher",
    "Gathering",
    "IdOf",
    "PublishBatchOptions",
    "PublishOptions",
    "QueueMessagePublisher",
    "SendBatchOptions",
    "SendOptions",
]
