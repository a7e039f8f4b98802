"""What the console needs of a broker. ``model`` has the classes of what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from melange.console.model import (
    FIRST_MESSAGES,
    Disorder,
    Draft,
    Message,
    MessageQuery,
    Messages,
    Overview,
    Snapshot,
)
from melange.server.stories import Story


class NotFoundError(Exception):
    """The topic, queue or message does not exist, or no longer."""


class RefusedError(Exception):
    """The broker refuses an action; the text says why."""


class Backend(Protocol):
    """A broker that the console shows. Thread-safe.

    Looking changes nothing, unless ``looking_receives``. Methods that name a queue, topic or message raise
    ``NotFoundError`` if it does not exist; actions raise ``RefusedError`` if the broker does not accept them.
    """

    @property
    def title(self) -> str:
        """The broker's name, for the head of each page."""

    @property
    def url(self) -> str:
        """The address that programs use as their endpoint; "" for that of AWS."""

    @property
    def looking_receives(self) -> bool:
        """True if a look at messages receives them, so that it counts and hides them for a while, as on AWS."""

    @property
    def counts_are_estimates(self) -> bool:
        """True if depths may be wrong, so that they are shown as "about"."""

    @property
    def allows_purging(self) -> bool:
        """True if the console offers to purge queues."""

    @property
    def controls(self) -> Controls | None:
        """Faults and time; None if the broker has no such thing."""

    @property
    def log(self) -> Log | None:
        """What happened to messages; None if the broker does not tell."""

    def now(self) -> float:
        """Return the seconds since 1970."""

    def overview(self) -> Overview:
        """Return all topics, queues and bindings."""

    def look(self, queue_arn: str) -> None:
        """Take a look at the messages of a queue, which ``messages`` returns then. Needed if ``looking_receives``."""

    def looked_at(self, queue_arn: str) -> float | None:
        """Return the time of the last look; None if there was none."""

    def messages(self, queue_arn: str, query: MessageQuery = FIRST_MESSAGES) -> Messages:
        """Return the messages of a queue that the query selects."""

    def message(self, queue_arn: str, key: str) -> Message:
        """Return one message."""

    def last_draft(self, arn: str) -> Draft | None:
        """Return the newest message of a queue or topic as a template for another; None if there was none."""

    def send(self, queue_arn: str, draft: Draft) -> str:
        """Send a message to a queue and return its id."""

    def publish(self, topic_arn: str, draft: Draft) -> str:
        """Publish a message to a topic and return its id."""

    def release(self, queue_arn: str, key: str) -> None:
        """Make an invisible message visible now."""

    def delete(self, queue_arn: str, keys: Sequence[str]) -> int:
        """Delete messages and return the number of those that were there."""

    def move(self, queue_arn: str, keys: Sequence[str], target_arn: str) -> int:
        """Move messages to another queue, as new ones, and return their number."""

    def retry(self, queue_arn: str, keys: Sequence[str]) -> int:
        """Move dead letters back to the queues from which they came, and return their number."""

    def retry_all(self, queue_arn: str) -> int:
        """Move all visible dead letters of a queue back, and return their number."""

    def purge(self, queue_arn: str) -> None:
        """Remove all messages of a queue."""

    def delete_queue(self, queue_arn: str) -> None:
        """Remove a queue and its messages."""

    def delete_topic(self, topic_arn: str) -> None:
        """Remove a topic and its bindings."""


class Log(Protocol):
    """The event log of a broker. Thread-safe."""

    @property
    def forgotten(self) -> int:
        """The number of events that the log has forgotten to stay small."""

    def find(
        self, *, message_id: str = "", event_type: str = "", text: str = "", limit: int = 100
    ) -> Sequence[Story]:
        """Return the stories of messages to which all that is given applies, the newest first."""

    def story(self, message_id: str) -> Story:
        """Return what happened to the message with this id. Raises ``NotFoundError`` if the log does not have it."""


class Controls(Protocol):
    """Faults and time of a broker for development. Thread-safe. Bad values raise ``RefusedError``."""

    @property
    def advanced_seconds(self) -> float:
        """The seconds by which the clock was moved ahead in all."""

    def advance(self, seconds: float) -> None:
        """Move the clock ahead."""

    def faults(self) -> Sequence[Mapping[str, Any]]:
        """Return the active faults with their options, ``id`` and ``struck``."""

    def add_fault(self, options: Mapping[str, Any]) -> None:
        """Add a fault; ``options`` has its ``kind``."""

    def remove_fault(self, fault_id: int) -> None:
        """Remove a fault."""

    def disorder(self) -> Disorder:
        """Return what standard queues do to messages."""

    def set_disorder(self, disorder: Disorder) -> None:
        """Have standard queues do it from now on."""

    def reset(self) -> None:
        """Remove all topics, queues, messages and faults."""

    def snapshots(self) -> Sequence[Snapshot]:
        """Return the snapshots that are kept."""

    def take_snapshot(self, name: str) -> None:
        """Keep a snapshot of all topics, queues and messages."""

    def restore_snapshot(self, name: str) -> None:
        """Have exactly what the snapshot has."""

    def remove_snapshot(self, name: str) -> None:
        """Forget a snapshot."""
