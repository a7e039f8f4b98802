"""What a broker has, in more detail than publishers and consumers need: for ``melange.topology``.

A driver offers it by a method ``inspection()``, beside ``MessagingDriver`` and ``BrokerAdministration``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from melange.drivers.base import EventFilter


@dataclass(frozen=True, slots=True)
class ObservedTopic:
    """A topic of the broker. ``name`` is without the driver's prefix; ``key`` encrypts it."""

    name: str
    address: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class ObservedQueue:
    """A queue of the broker.

    ``arn`` names it in policies and subscriptions. ``dead_letter_queue`` is an ARN too. ``policy`` is the broker's own
    text, None for brokers without policies. ``message_count`` is an estimate.
    """

    name: str
    address: str
    arn: str
    retention_seconds: int
    visibility_timeout_seconds: int
    message_count: int = 0
    dead_letter_queue: str | None = None
    max_receive_count: int | None = None
    key: str | None = None
    policy: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ObservedSubscription:
    """A subscription of a queue to a topic.

    ``address`` is the subscription's own, "" while it is pending. ``other_filter`` is the text of a filter that selects by
    something other than event types. ``dead_letter_queue`` receives what the broker cannot deliver to the queue; ""
    for brokers that always can.
    """

    address: str
    topic_address: str
    queue_arn: str
    event_filter: EventFilter | None = None
    other_filter: str | None = None
    is_raw: bool = True
    is_pending: bool = False
    dead_letter_queue: str | None = ""


class BrokerInspection(Protocol):
    """Looks at a broker, and changes what declaring does not. Thread-safe.

    Raises:
        DriverError: the broker is unavailable, or a permission is missing.
    """

    def topic(self, name: str) -> ObservedTopic | None:
        """Return the topic, by name or ARN; None if it does not exist."""

    def queue(self, name: str) -> ObservedQueue | None:
        """Return the queue, by name, ARN or URL; None if it does not exist."""

    def tagged_queues(self, key: str, value: str) -> Sequence[ObservedQueue]:
        """Return the queues with this tag."""

    def subscriptions_of(self, topic: ObservedTopic) -> Sequence[ObservedSubscription]:
        """Return the subscriptions of queues to the topic."""

    def subscriptions_into(self, queue: ObservedQueue) -> Sequence[ObservedSubscription]:
        """Return the subscriptions of the queue, to any topic of the account."""

    def policy_problem(self, queue: ObservedQueue, topic: ObservedTopic) -> str | None:
        """Return the reason why the queue's policy does not let the topic in; None if it does."""

    def key_problem(self, queue: ObservedQueue) -> str | None:
        """Return the reason why topics cannot use the key that encrypts the queue; None if they can."""

    def set_raw_delivery(self, subscription: ObservedSubscription) -> None:
        """Let the subscription deliver messages without an envelope."""

    def set_dead_letter_queue(self, subscription: ObservedSubscription, queue: ObservedQueue) -> None:
        """Send what the broker cannot deliver for the subscription to this queue, and let the topic in there."""

    def unsubscribe(self, subscription: ObservedSubscription) -> None:
        """Remove the subscription."""


@runtime_checkable
class Inspectable(Protocol):
    """A driver that offers an inspection of its broker."""

    def inspection(self) -> BrokerInspection:
        """Return an inspection of the broker. It makes no calls yet."""
