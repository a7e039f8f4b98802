"""The contract of deduplication stores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, NamedTuple

DEFAULT_RETENTION_SECONDS = 18 * 24 * 3600.0
"""The time in which a message can come back: the default 4 days of a queue and 14 of its dead-letter queue."""


RunCoroutine = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end and returns what it returned, blocking the calling thread."""

_NO_KEYWORDS: Mapping[str, object] = MappingProxyType({})


class DeduplicationKey(NamedTuple):
    """One listener's work on one message of one queue.

    ``queue_address`` is unique among all brokers. ``content`` is ``content_of(message)``: two messages with one id are the
    same only if their contents are equal.
    """

    queue_address: str
    listener_name: str
    message_id: str
    content: tuple[str, ...]

    def digest(self) -> bytes:
        """Return 16 bytes that identify the key in every process. Its parts may be any text, lone surrogates included."""
        parts = (self.queue_address, self.listener_name, self.message_id, *self.content)
        # The lengths keep two keys with parts such as ("ab", "c") and ("a", "bc") apart.
        text = "".join([f"{len(part)}:{part}" for part in parts])
        return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


class Claimed(NamedTuple):
    """The right to run the listener, until it is completed, abandoned or its lease expires.

    ``token`` identifies this claim among all claims of the key, so that a worker with an expired lease cannot act for its
    successor. ``attempt`` is the number of this run, 1 for the first.
    """

    key: DeduplicationKey
    token: str
    attempt: int = 1

    @property
    def keywords(self) -> Mapping[str, object]:
        """The store's values for the listener, one for each of its ``keyword_names``."""
        return _NO_KEYWORDS


class ClaimRefusal(Enum):
    """Why a claim was refused."""

    BUSY = "busy"
    """Another claim is running the listener for this message: wait, and do not count an attempt."""
    DONE = "done"
    """The listener has finished this message before: do not run it again."""


class NoDeduplication(Enum):
    """The type of ``NO_DEDUPLICATION``."""

    NO_DEDUPLICATION = "no deduplication"


NO_DEDUPLICATION: Final = NoDeduplication.NO_DEDUPLICATION
"""Turns deduplication off for a consumer. It is not None, because an argument may be None by accident."""


class DeduplicationStore(ABC):
    """Remembers which listeners have finished which messages, which are running, and their attempts.

    Claim a listener before it runs, complete it when it has returned, and abandon it when it has failed. Never mark it
    before it has run, because a crash would then lose the message. All methods are thread-safe. A store may keep a database
    transaction open between ``claim`` and ``complete`` (its own ``Claimed`` is handed back to it), so that effect and mark
    are committed together.

    ``claim`` counts attempts in the same atomic step, so a process that dies during a run has used one. Attempts are kept
    as long as marks.

    A claim is lost once another claim has taken the key, whatever happens to that one. An expired claim without a
    successor can still be completed, abandoned and renewed, because the work was done; a store that forgets such a claim
    early reports it as lost. A call that is repeated after a lost answer is recognised by its token.

    Each method raises ``DeduplicationError`` if the store is unavailable; nothing is decided then.

    ``keyword_names`` are additional keywords that listeners may have, for example a session. ``listeners_are_async`` is
    True if the store supports only asynchronous listeners, False if it supports only plain ones. ``outlives_process`` is
    True if attempts and marks survive a crash. ``answers_at_once`` is True if no method waits for anything, and none raises
    ``DeduplicationError``: a worker then calls it on its event loop.
    """

    keyword_names: tuple[str, ...] = ()
    listeners_are_async: bool | None = None
    outlives_process: bool = False
    answers_at_once: bool = False

    def use_event_loop(self, run_coroutine: RunCoroutine) -> None:
        """Receive the event loop of the worker that starts to use the store. Most stores ignore it."""
        return

    @abstractmethod
    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        """Claim the key for ``lease_seconds`` and count an attempt; a key has one valid claim at a time.

        The caller makes the token. Claiming again with the same token succeeds, starts the lease again, and is the same
        attempt. A refusal does not count.
        """

    @abstractmethod
    def complete(self, claimed: Claimed) -> bool:
        """Mark the key as done; return False, without a mark, if the claim was lost.

        Completing again returns True as long as the mark exists. An error other than ``DeduplicationError`` means that
        the listener failed, and that nothing is marked.
        """

    @abstractmethod
    def abandon(self, claimed: Claimed, *, began: bool = True) -> bool:
        """Release the claim, so that another may claim the key at once; return False if there is none.

        The attempt stays counted, unless ``began`` is False: the listener was never called. A completed key stays
        completed.
        """

    def give_up(self, claimed: Claimed) -> None:
        """Get ready for ``abandon``: the listener exceeded its time limit, and may go on in another thread.

        Stores with values for listeners end its use of them. It must not block for long, and raises nothing. Most stores
        ignore it.
        """
        return

    @abstractmethod
    def forget_attempts(self, key: DeduplicationKey) -> None:
        """Forget the attempts of the key after its message was dead-lettered, so that a redrive starts from zero.

        Marks and claims do not change. Without attempts this does nothing.
        """

    @abstractmethod
    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        """Extend the claim to ``lease_seconds`` from now; return False if it was lost."""

    @abstractmethod
    def check(self) -> None:
        """Raise ``DeduplicationError`` while the store is unavailable. Called before polling continues."""
