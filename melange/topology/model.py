"""The model of what a program declares: topics, queues with their bindings and listeners, and publishers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from melange.drivers.base import EventFilter
from melange.drivers.sqs_rules import FIFO_SUFFIX
from melange.errors import ConfigurationError

TOPOLOGY_TAG = "melange-topology"
"""The tag of queues that ``apply`` has made or found: its value is the name of their topology."""

Through = Literal["publisher", "outbox", "queue publisher"]


@dataclass(frozen=True, slots=True)
class DeclaredTopic:
    """A topic; ``name`` may be an ARN.

    ``event_types`` are those that the program publishes to it, None unless each publisher says its types.
    """

    name: str
    event_types: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class DeclaredBinding:
    """A topic that feeds a queue.

    ``event_filter`` is None if the program names no filter; one without event types removes an existing filter.
    """

    topic: str
    event_filter: EventFilter | None = None


@dataclass(frozen=True, slots=True)
class DeclaredListener:
    """A listener; without event types it takes all."""

    name: str
    event_types: tuple[str, ...] = ()
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class DeclaredQueue:
    """A queue; ``name`` may be an ARN or a URL.

    None leaves a setting to the broker. ``max_receive_count`` is the least that the attempts need. An existing queue with
    another dead-letter queue keeps it if ``keeps_dead_letter_queue``: the program did not name one.
    ``dead_letters_of`` names the sources of the dead letters in this queue.
    """

    name: str
    bindings: tuple[DeclaredBinding, ...] = ()
    listeners: tuple[DeclaredListener, ...] = ()
    dead_letter_queue: str | None = None
    keeps_dead_letter_queue: bool = False
    max_receive_count: int | None = None
    max_attempts: int | None = None
    retention_seconds: int | None = None
    visibility_timeout_seconds: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    dead_letters_of: tuple[str, ...] = ()

    @property
    def is_consumed(self) -> bool:
        """True if a consumer of the program receives from it."""
        return self.visibility_timeout_seconds is not None


@dataclass(frozen=True, slots=True)
class DeclaredPublisher:
    """A publisher to a topic or queue; ``event_types`` is None if the program does not say them."""

    target: str
    through: Through
    event_types: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class DeclaredPayloads:
    """The bucket in S3 in which large events are stored under ``prefix``, and deleted after ``days``."""

    bucket: str
    prefix: str
    days: int


@dataclass(frozen=True, slots=True)
class Topology:
    """What a program declares. ``name`` marks its queues at the broker; ``prefix`` stands before all names there.

    ``collect`` makes one of what a function declares, ``of`` one of objects that exist.
    """

    name: str
    prefix: str = ""
    topics: tuple[DeclaredTopic, ...] = ()
    queues: tuple[DeclaredQueue, ...] = ()
    publishers: tuple[DeclaredPublisher, ...] = ()
    payloads: tuple[DeclaredPayloads, ...] = ()

    def topic(self, name: str) -> DeclaredTopic | None:
        """Return the topic of this name."""
        return next((topic for topic in self.topics if topic.name == name), None)

    def queue(self, name: str) -> DeclaredQueue | None:
        """Return the queue of this name."""
        return next((queue for queue in self.queues if queue.name == name), None)

    def own_name(self, address: str) -> str:
        """Return the program's name for what the broker has at this address."""
        return plain_name(address).removeprefix(self.prefix)

    def broker_name(self, name: str) -> str:
        """Return the broker's name for what the program calls ``name``, without its ARN or URL."""
        return plain_name(name) if is_address(name) else self.prefix + name

    def senders(self, queue: DeclaredQueue) -> list[str]:
        """Return the topics that the queue's policy has to let in.

        A dead-letter queue also receives what cannot be delivered to the queues that it serves.
        """
        served = [self.queue(name) for name in queue.dead_letters_of]
        bindings = [*queue.bindings, *(binding for one in served if one for binding in one.bindings)]
        return sorted({binding.topic for binding in bindings})

    def bindings(self) -> Iterator[tuple[DeclaredQueue, DeclaredBinding]]:
        """Yield each binding with its queue."""
        for queue in self.queues:
            for binding in queue.bindings:
                yield queue, binding


def topology_from(
    name: str,
    prefix: str,
    queues: Iterable[DeclaredQueue],
    publishers: Iterable[DeclaredPublisher],
    payloads: Iterable[DeclaredPayloads] = (),
) -> Topology:
    """Return the topology with the topics and dead-letter queues that its queues and publishers name.

    Queues declared several times become one.

    Raises:
        ConfigurationError: declarations of one queue contradict each other.
    """
    publishers = tuple(dict.fromkeys(publishers))
    merged: dict[str, DeclaredQueue] = {}
    for queue in queues:
        merged[queue.name] = _merged(merged[queue.name], queue) if queue.name in merged else queue
    by_name = dict(sorted(merged.items()))
    topic_names = {binding.topic for queue in by_name.values() for binding in queue.bindings}
    topic_names |= {one.target for one in publishers if one.through != "queue publisher"}
    return Topology(
        name=name,
        prefix=prefix,
        topics=tuple(DeclaredTopic(one, _published_to(one, publishers)) for one in sorted(topic_names)),
        queues=tuple(by_name.values()),
        publishers=tuple(
            sorted(publishers, key=lambda one: (one.target, one.through, one.event_types or ()))
        ),
        payloads=tuple(dict.fromkeys(payloads)),
    )


def is_address(name: str) -> bool:
    """Return True for an ARN or URL: the thing exists, and belongs to another program."""
    return name.startswith(("arn:", "http://", "https://"))


def plain_name(name: str) -> str:
    """Return the name in an ARN or URL, or the name itself."""
    return name.rpartition("/")[2].rpartition(":")[2] if is_address(name) else name


def is_fifo(name: str) -> bool:
    """Return True for the name of a FIFO topic or queue."""
    return name.endswith(FIFO_SUFFIX)


def _published_to(topic: str, publishers: Sequence[DeclaredPublisher]) -> tuple[str, ...] | None:
    types = [
        one.event_types for one in publishers if one.target == topic and one.through != "queue publisher"
    ]
    if not types or None in types:
        return None
    return tuple(sorted({name for names in types for name in names or ()}))


def _merged(one: DeclaredQueue, other: DeclaredQueue) -> DeclaredQueue:
    """Return two declarations of a queue as one: what only one of them says is taken from that."""
    changes: dict[str, object] = {}
    for setting in dataclasses.fields(DeclaredQueue):
        first, second = getattr(one, setting.name), getattr(other, setting.name)
        if setting.name in ("bindings", "listeners", "dead_letters_of"):
            changes[setting.name] = tuple(dict.fromkeys((*first, *second)))
        elif setting.name == "tags":
            changes[setting.name] = {**first, **second}
        elif setting.name in ("max_receive_count", "max_attempts", "retention_seconds"):
            changes[setting.name] = max(
                (value for value in (first, second) if value is not None), default=None
            )
        elif setting.name == "visibility_timeout_seconds":  # the shortest lease is the one at risk
            changes[setting.name] = min(
                (value for value in (first, second) if value is not None), default=None
            )
        elif setting.name == "keeps_dead_letter_queue":
            changes[setting.name] = first and second
        elif first is None or second is None or first == second:
            changes[setting.name] = second if first is None else first
        else:
            raise ConfigurationError(
                f"queue {one.name} is declared twice, with {setting.name} {first!r} and {second!r}: use one of them"
            )
    merged = replace(one, **changes)  # type: ignore[arg-type] # by name
    filters: dict[str, set[EventFilter | None]] = {}
    for binding in merged.bindings:
        filters.setdefault(binding.topic, set()).add(binding.event_filter)
    for topic, named in filters.items():
        if len(named) > 1:
            raise ConfigurationError(
                f"queue {one.name} is bound to topic {topic} twice, with different filters: each start of a consumer "
                "would change it. Give both consumers the same filter_events="
            )
    return merged
