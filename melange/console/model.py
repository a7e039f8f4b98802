"""What the console shows of a broker: topics, queues, subscriptions and messages.

Topics, queues and endpoints have an ARN as their key. A message has a ``key`` within its queue, valid as long as the
message is there. Times are seconds since 1970 by the broker's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["visible", "in flight", "delayed", "blocked"]
"""``blocked`` is a message of a FIFO queue that waits behind an invisible one of its group."""

STATES: tuple[State, ...] = ("visible", "in flight", "delayed", "blocked")


@dataclass(frozen=True, slots=True)
class Traffic:
    """The number of messages since the backend was made; of a topic, ``arrived`` counts what was published."""

    arrived: int = 0
    received: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic. ``attributes`` are those that SNS shows."""

    arn: str
    is_fifo: bool
    attributes: Mapping[str, str] = field(default_factory=dict)
    traffic: Traffic | None = None

    @property
    def name(self) -> str:
        return name_of(self.arn)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue with its depths.

    ``oldest_at`` is when its oldest message was sent; None if it is empty or not known. ``source_arns`` are the queues
    that move their dead letters here. ``attributes`` are those that SQS shows. ``traffic`` is None if it is not known.
    """

    arn: str
    is_fifo: bool
    visible: int
    in_flight: int
    delayed: int
    oldest_at: float | None = None
    dead_letter_arn: str | None = None
    max_receive_count: int | None = None
    source_arns: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    traffic: Traffic | None = None

    @property
    def name(self) -> str:
        return name_of(self.arn)

    @property
    def total(self) -> int:
        return self.visible + self.in_flight + self.delayed

    @property
    def holds_dead_letters(self) -> bool:
        """True if queues move their dead letters here, or the name is one that melange gives to such a queue."""
        return bool(self.source_arns) or self.name.removesuffix(".fifo").endswith("-dlq")


@dataclass(frozen=True, slots=True)
class Binding:
    """A subscription: what ``endpoint``, an ARN or a URL, gets of a topic.

    ``filter_policy`` is JSON text. ``problem`` says why nothing is delivered; "" if no reason is known.
    ``lacks_permission`` is True if the queue's policy has no statement for the topic, so that one more would help.
    """

    arn: str
    topic_arn: str
    protocol: str
    endpoint: str
    is_raw: bool = False
    is_pending: bool = False
    filter_policy: str | None = None
    filter_scope: str = "MessageAttributes"
    dead_letter_arn: str | None = None
    problem: str = ""
    lacks_permission: bool = False


@dataclass(frozen=True, slots=True)
class Overview:
    """All that a broker has, sorted by name."""

    topics: Sequence[Topic]
    queues: Sequence[Queue]
    bindings: Sequence[Binding]

    def queue(self, arn: str) -> Queue | None:
        """Return the queue, or None."""
        return next((queue for queue in self.queues if queue.arn == arn), None)

    def topic(self, arn: str) -> Topic | None:
        """Return the topic, or None."""
        return next((topic for topic in self.topics if topic.arn == arn), None)

    @property
    def is_of_one_place(self) -> bool:
        """True if all topics and queues are in one account and region."""
        arns = [topic.arn for topic in self.topics] + [queue.arn for queue in self.queues]
        return len(set(map(place_of, arns))) < 2

    def bindings_of(self, topic_arn: str) -> list[Binding]:
        """Return the bindings of a topic."""
        return [binding for binding in self.bindings if binding.topic_arn == topic_arn]

    def bindings_to(self, queue_arn: str) -> list[Binding]:
        """Return the bindings by which a queue gets messages."""
        return [binding for binding in self.bindings if binding.endpoint == queue_arn]


@dataclass(frozen=True, slots=True)
class Message:
    """A message in a queue, as it is now.

    ``raw`` is the message as ``ReceiveMessage`` gives it, with all attributes; its receipt handle is empty.
    ``visible_at`` is None unless the message is invisible. ``blocked_by`` is the key of the message that it waits for.
    ``source_arn`` is the queue that moved it here after too many receives.
    """

    key: str
    raw: Mapping[str, Any]
    state: State
    visible_at: float | None = None
    received_at: float | None = None
    blocked_by: str | None = None
    source_arn: str | None = None

    @property
    def message_id(self) -> str:
        return str(self.raw["MessageId"])

    @property
    def body(self) -> str:
        return str(self.raw["Body"])

    @property
    def body_bytes(self) -> int:
        return len(self.body.encode("utf-8", "surrogatepass"))

    @property
    def attributes(self) -> Mapping[str, Mapping[str, Any]]:
        """The message attributes by name, each with its DataType and its value."""
        return self.raw.get("MessageAttributes") or {}

    @property
    def system_attributes(self) -> Mapping[str, str]:
        return self.raw.get("Attributes") or {}

    @property
    def receive_count(self) -> int:
        return int(self.system_attributes.get("ApproximateReceiveCount", 0))

    @property
    def sent_at(self) -> float:
        return int(self.system_attributes.get("SentTimestamp", 0)) / 1_000

    @property
    def group_id(self) -> str | None:
        return self.system_attributes.get("MessageGroupId")


@dataclass(frozen=True, slots=True)
class MessageQuery:
    """Which messages of a queue: at most ``limit`` behind the key ``after``, with ``text`` and in ``state`` if given."""

    after: str | None = None
    limit: int = 50
    text: str = ""
    state: str = ""
    newest_first: bool = False


FIRST_MESSAGES = MessageQuery()
"""The oldest messages of any kind."""


@dataclass(frozen=True, slots=True)
class Messages:
    """Some messages of a queue, in the order of arrival. ``next_key`` is where the next ones begin; None at the end.

    ``is_cut`` is True if a search has ended before it has seen all.
    """

    messages: Sequence[Message]
    next_key: str | None = None
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A message to be sent or published. ``attributes`` have a DataType and a value each, as in ``Message``.

    ``subject`` is for topics, ``delay_seconds`` for queues; None means the queue's own delay.
    """

    body: str
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    subject: str | None = None
    group_id: str | None = None
    deduplication_id: str | None = None
    delay_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Disorder:
    """What standard queues do to messages: the share that is delivered twice, and deliveries out of order."""

    duplicates: float = 0
    shuffle: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the broker had at one moment, under a name."""

    name: str
    taken_at: float
    messages: int


def name_of(arn: str) -> str:
    """Return the name in an ARN; an endpoint that has none stays as it is."""
    return arn.rpartition(":")[2] if arn.startswith("arn:") else arn


def place_of(arn: str) -> str:
    """Return the region and the account of an ARN, "" for other endpoints."""
    return " ".join(arn.split(":")[3:5]) if arn.startswith("arn:") else ""
