"""The options of a consumer, in groups."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from melange.backoff import Backoff
from melange.deduplication.base import NO_DEDUPLICATION, DeduplicationStore, NoDeduplication
from melange.deduplication.memory import MemoryDeduplicationStore
from melange.drivers.base import MessagingDriver, NoDeadLetterQueue
from melange.errors import ConfigurationError, is_whole_number
from melange.serialization.serializer import EventTypeOf

MAX_ATTEMPTS = 1_000
DEFAULT_BACKOFF = Backoff()

_default_store_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when a failed listener is retried.

    An attempt is one run of one listener for one message. After ``max_attempts`` the message goes to the dead-letter
    queue. ``backoff`` is called with the number of the failed attempt and returns the seconds to wait. An exception of a
    type in ``reject_on`` is not retried: the message is dead-lettered at once.

    The defaults survive a downstream outage of half an hour: the last of 25 attempts comes 41 to 83 minutes after the
    first.
    """

    max_attempts: int = 25
    backoff: Callable[[int], float] = DEFAULT_BACKOFF
    reject_on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        attempts = self.max_attempts
        if not is_whole_number(attempts) or not 1 <= attempts <= MAX_ATTEMPTS:
            raise ConfigurationError(
                f"max_attempts must be a whole number from 1 to {MAX_ATTEMPTS}, not {attempts!r}"
            )
        if not callable(self.backoff):
            raise ConfigurationError(
                f"backoff= takes a function of the number of the attempt, such as Backoff(), not {self.backoff!r}"
            )
        kinds = self.reject_on if isinstance(self.reject_on, tuple) else (self.reject_on,)
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise ConfigurationError(f"reject_on= takes exception types in a tuple, not {self.reject_on!r}")
        object.__setattr__(self, "reject_on", kinds)


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How a consumer declares its queue, receives from it, and reads what it receives.

    Args:
        dead_letter_queue_name: where rejected messages go: by default ``<queue>-dlq``, created together with the queue;
            ``NO_DEAD_LETTER_QUEUE`` for none: rejected messages then stay in the queue.
        visibility_timeout_seconds: how long a received message stays invisible to others unless its lease is renewed.
            Leases are renewed while messages are in flight.
        wait_seconds: how long a poll waits for messages, 0 to 20.
        on_reject: on a FIFO queue, with ``"skip"`` the group continues after a message is dead-lettered; ``"block"``
            keeps the message in the queue, and its group waits until it succeeds or is removed.
        on_unhandled: what happens to a message that no listener accepts. Acknowledged ones are counted in ``health``,
            and each type is logged once.
        ordered_by: the event field by which a ``Worker`` keeps events in order on a standard queue: among those in
            flight, one at a time for each value, in the order of receipt. Other workers and redeliveries are not
            ordered; for that use a FIFO queue.
        filter_scope: where the broker reads the type for ``filter_events``: ``"headers"`` is free, and excludes
            messages that were published without melange; ``"body"`` includes them, and Amazon bills for it.
        event_type: finds the type of messages that melange did not publish: see ``melange.serialization.aws_events``.
        tags: cost tags and the like, for the queues.
        declare: False creates and changes nothing: the queue, its dead-letter queue and the topics must exist.
            ``filter_events`` and ``tags`` then say what ``melange topology apply``, or its export, creates.
    """

    dead_letter_queue_name: str | NoDeadLetterQueue | None = None
    visibility_timeout_seconds: int = 30
    wait_seconds: int = 20
    on_reject: Literal["skip", "block"] = "skip"
    on_unhandled: Literal["acknowledge", "reject"] = "acknowledge"
    ordered_by: str | None = None
    filter_scope: Literal["headers", "body"] = "headers"
    event_type: EventTypeOf | None = None
    tags: Mapping[str, str] | None = None
    declare: bool = True

    def __post_init__(self) -> None:
        name = self.dead_letter_queue_name
        if name == "" or not isinstance(name, (str, NoDeadLetterQueue, type(None))):
            raise ConfigurationError(
                f"dead_letter_queue_name= takes a name, None for the default, or NO_DEAD_LETTER_QUEUE, not {name!r}"
            )
        if not isinstance(self.ordered_by, (str, type(None))):
            raise ConfigurationError(f"ordered_by= takes the name of an event field, not {self.ordered_by!r}")
        tags = self.tags
        are_tags = tags is None or (
            isinstance(tags, Mapping) and all(isinstance(text, str) for tag in tags.items() for text in tag)
        )
        if not are_tags or "" in (tags or ()):
            raise ConfigurationError(f"tags= takes a dict of texts by names, not {tags!r}")
        if not isinstance(self.declare, bool):
            raise ConfigurationError(f"declare= takes True or False, not {self.declare!r}")
        if self.event_type is not None and not callable(self.event_type):
            raise ConfigurationError(
                f"event_type= takes a function of body and headers, not {self.event_type!r}"
            )
        check_choice("on_reject", self.on_reject, "skip", "block")
        check_choice("on_unhandled", self.on_unhandled, "acknowledge", "reject")
        check_choice("filter_scope", self.filter_scope, "headers", "body")


@dataclass(frozen=True, slots=True)
class Deduplication:
    """How a consumer recognises messages that its listeners have finished.

    Args:
        store: where marks and attempts are kept: by default the driver's, in the memory of this process.
        on_unavailable: while the store is unavailable, ``"retry"`` releases messages and pauses; ``"process"`` runs the
            listeners without deduplication, with receives counted as attempts.
        identity: ``"message"`` knows a message by the id that its sender gave it; ``"broker"`` by the id that the broker
            gave it, which no sender can choose: for queues that strangers can send to. A message that its sender
            repeats, or that is moved back from a dead-letter queue, is then a new one.
    """

    store: DeduplicationStore | None = None
    on_unavailable: Literal["retry", "process"] = "retry"
    identity: Literal["message", "broker"] = "message"

    def __post_init__(self) -> None:
        check_choice("on_unavailable", self.on_unavailable, "retry", "process")
        check_choice("identity", self.identity, "message", "broker")
        if not isinstance(self.store, (DeduplicationStore, type(None))):
            raise ConfigurationError(
                f"store= takes a deduplication store, such as MemoryDeduplicationStore(), not {self.store!r}"
            )


def check_kind(name: str, value: object, *kinds: type) -> None:
    """Raise ``ConfigurationError`` unless ``value`` is an object of one of the classes."""
    if not isinstance(value, kinds):
        raise ConfigurationError(
            f"{name}= takes an object of the class {kinds[0].__name__}, such as {kinds[0].__name__}(...), not {value!r}"
        )


def check_choice(name: str, value: object, *choices: str) -> None:
    """Raise ``ConfigurationError`` unless ``value`` is one of the choices."""
    if value not in choices:
        raise ConfigurationError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")


def resolved_deduplication(
    wanted: DeduplicationStore | Deduplication | NoDeduplication | None, driver: MessagingDriver
) -> tuple[Deduplication, DeduplicationStore | None]:
    """Return the options and the store, None without deduplication.

    Raises:
        ConfigurationError: the argument is neither a store nor options, or its options contradict each other.
    """
    if wanted is NO_DEDUPLICATION:
        return Deduplication(), None
    if isinstance(wanted, DeduplicationStore):
        wanted = Deduplication(wanted)
    elif wanted is None:
        wanted = Deduplication()
    elif not isinstance(wanted, Deduplication):
        raise ConfigurationError(
            "deduplication= takes a store, such as MemoryDeduplicationStore(), a Deduplication(...), or "
            f"NO_DEDUPLICATION, not {wanted!r}"
        )
    store = _default_store(driver) if wanted.store is None else wanted.store
    if store.keyword_names and wanted.on_unavailable == "process":
        raise ConfigurationError(
            f"with on_unavailable='process' listeners run without their store, and {type(store).__name__} is a part of "
            "their work: leave it at 'retry'"
        )
    return wanted, store


def _default_store(driver: MessagingDriver) -> DeduplicationStore:
    """Return the default store: the driver's, or one in memory."""
    with _default_store_lock:
        if driver.deduplication_store is None:
            driver.deduplication_store = MemoryDeduplicationStore(clock=driver.clock)
        return driver.deduplication_store
