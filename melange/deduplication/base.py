"""What consumers ask of a deduplication store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

DEFAULT_RETENTION_SECONDS = 18 * 24 * 3600.0
"""As long as a message can come back: a queue's default 4 days and its dead-letter queue's 14."""


RunCoroutine = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end and returns what it returned, blocking the calling thread."""

_NO_KEYWORDS: Mapping[str, object] = MappingProxyType({})


class DeduplicationKey(NamedTuple):
    """One listener's work on one message of one queue."""

    queue_name: str
    listener_name: str
    message_id: str


class Claimed(NamedTuple):
    """The right to run the listener, until it is completed, abandoned or its lease runs out.

    ``token`` tells this claim from any other of the same key, so that a worker that overslept its lease
    can't speak for its successor.
    """

    key: DeduplicationKey
    token: str

    @property
    def keywords(self) -> Mapping[str, object]:
        """What the store gives the listener: a value for each of its ``keyword_names``."""
        return _NO_KEYWORDS


class ClaimRefusal(Enum):
    """Why a claim was refused."""

    BUSY = "busy"
    """Somebody else is running the listener for this message: wait, and decide nothing."""
    DONE = "done"
    """The listener has finished this message before: do not run it again."""
    CONFLICT = "conflict"
    """The listener has finished a message of this id, but with another body: one of the two is an error."""


class DeduplicationStore(ABC):
    """Remembers which listeners have finished which messages, and who is at work.

    A listener is claimed before it runs, completed when it returned, abandoned when it raised: never
    marked before it ran, or a crash would lose the message. All methods are thread-safe. A store may keep
    a database transaction open between ``claim`` and ``complete`` (its own ``Claimed`` is handed back to
    it), so that effect and mark are committed together.

    A claim is lost once another has taken the key, whatever became of that one. A lease that ran out while
    nobody did can still be completed, abandoned and renewed, for the work was done; a store that forgets such
    a claim early calls it lost. What is sent twice, because an answer got lost, recognises itself by its token.

    Each method raises ``DeduplicationError`` when the store can't be asked; nothing is decided then.

    ``keyword_names`` are what listeners may ask for by name, beside the keywords that they all have: a session for
    one. ``listeners_are_async`` is True where only asynchronous listeners can work with the store, False where only
    the others can.
    """

    keyword_names: tuple[str, ...] = ()
    listeners_are_async: bool | None = None

    def use_event_loop(self, run_coroutine: RunCoroutine) -> None:
        """Take note of the event loop of the worker that begins to use the store; most have no use for it."""
        return

    @abstractmethod
    def claim(
        self, key: DeduplicationKey, token: str, lease_seconds: float, *, body: str
    ) -> Claimed | ClaimRefusal:
        """Claim the key, for ``lease_seconds`` unless renewed; at most one claim of a key holds at a time.

        The caller makes the token. Claiming again with the same token succeeds and starts the lease anew. Of
        the message's ``body`` a digest is kept beside the mark.
        """

    @abstractmethod
    def complete(self, claimed: Claimed) -> bool:
        """Mark the key as done; False when the claim was lost meanwhile, and nothing is marked.

        Completing again is True as long as the mark is there. An error other than ``DeduplicationError`` says that
        the listener failed after all, and that nothing is marked.
        """

    @abstractmethod
    def abandon(self, claimed: Claimed) -> bool:
        """Give the claim back so that another may have it at once; False when there is none to give.

        What was completed stays so.
        """

    @abstractmethod
    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        """Keep the claim for ``lease_seconds`` from now; False when it was lost meanwhile."""

    @abstractmethod
    def check(self) -> None:
        """Raise ``DeduplicationError`` while the store is out of reach; asked before polling goes on."""
