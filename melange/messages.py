"""What travels: messages, their deliveries, and what failed of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from melange.drivers.base import Queue
    from melange.errors import MelangeError

RESERVED_HEADER_PREFIX = "melange-"
"""Header names that begin so are melange's own; callers may not use them."""

DEAD_LETTER_HEADER = "melange-dead-letter"
"""Carries, as JSON, why a message was set aside."""

JSON_CONTENT_TYPE = "application/json"

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Message(NamedTuple):
    """The form in which an event travels.

    ``body`` is the event's own JSON text. ``headers`` are the caller's (correlation id and the like),
    read-only. ``event_type_name`` and ``published_at`` (aware, UTC) are None when somebody else
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
        """Leave the payload out, so that it gets into no log by accident."""
        return (
            f"Message(message_id={self.message_id!r}, event_type_name={self.event_type_name!r}, "
            f"body=<{len(self.body):,} characters>)"
        )


class Delivery(NamedTuple):
    """One receipt of a message from a queue.

    Until ``deadline`` (seconds of the driver's monotonic clock, measured from before the receive
    was sent) nobody else is given the message. ``receive_count`` is 1 the first time. The
    ``receipt_handle`` is a secret between driver and broker.
    """

    message: Message
    queue: Queue
    receipt_handle: str
    receive_count: int
    deadline: float

    def __repr__(self) -> str:
        """Leave the receipt handle out."""
        return (
            f"Delivery(message={self.message!r}, queue={self.queue.name!r}, "
            f"receive_count={self.receive_count}, deadline={self.deadline})"
        )


ItemT = TypeVar("ItemT", Message, Delivery)


@dataclass(frozen=True, slots=True)
class Failure(Generic[ItemT]):
    """One item of a batch that failed, and why."""

    item: ItemT
    error: MelangeError
