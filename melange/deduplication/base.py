"""What consumers ask of a deduplication store."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from melange.messages import RESERVED_HEADER_PREFIX, Message

DEFAULT_RETENTION_SECONDS = 18 * 24 * 3600.0
"""As long as a message can come back: a queue's default 4 days and its dead-letter queue's 14."""


RunCoroutine = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end and returns what it returned, blocking the calling thread."""

_NO_KEYWORDS: Mapping[str, object] = MappingProxyType({})


class _KeyParts(NamedTuple):
    queue_address: str
    listener_name: str
    message_id: str
    content_digest: str


class DeduplicationKey(_KeyParts):
    """One listener's work on one message of one queue.

    ``queue_address`` is the queue's own among all brokers. ``content_digest`` is ``content_digest(message)``: two messages
    of one id are the same only if they say the same.
    """

    _digest: bytes | None = None

    def digest(self) -> bytes:
        """Return 16 bytes that stand for the key; any text may be in it, lone surrogates included."""
        digest = self._digest
        if digest is None:
            parts = "\0".join(self)
            if parts.count("\0") != len(self) - 1:  # in a part there is one too: give each its length
                parts = "".join(f"\0{len(part)}:{part}" for part in self)
            digest = blake2b(parts.encode(errors="surrogatepass"), digest_size=16).digest()
            self._digest = digest  # asked for again when the work is done
        return digest


# Instrumentation may set these anew each time a message is sent, a repetition of the same message included.
_TRACE_HEADERS = re.compile(
    r"traceparent|tracestate|baggage|b3|x-b3-.*|x-amzn-trace-id|awstraceheader|x-ray-.*|sentry-trace|_datadog|x-datadog-.*"
    r"|newrelic|uber-trace-id",
    re.IGNORECASE,
)


def content_digest(message: Message) -> str:
    """Return what tells the message from another one of the same id: a digest of type, body and headers.

    Headers for tracing, and melange's own, are left out: they may differ when the same message is sent again.
    """
    digest = blake2b(message.body.encode(errors="surrogatepass"), digest_size=16)
    headers = (
        sorted(
            item
            for item in message.headers.items()
            if not item[0].lower().startswith(RESERVED_HEADER_PREFIX)
            and not _TRACE_HEADERS.fullmatch(item[0])
        )
        if message.headers
        else ()
    )
    for text in (message.event_type_name or "", *(text for item in headers for text in item)):
        digest.update(f"\0{len(text)}:{text}".encode(errors="surrogatepass"))
    return digest.hexdigest()


class Claimed(NamedTuple):
    """The right to run the listener, until it is completed, abandoned or its lease expires.

    ``token`` tells this claim from any other of the same key, so that a worker whose lease has expired can't speak for
    its successor. ``attempt`` is the number of this run, 1 for the first.
    """

    key: DeduplicationKey
    token: str
    attempt: int = 1

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


class NoDeduplication(Enum):
    """The type of ``NO_DEDUPLICATION``."""

    NO_DEDUPLICATION = "no deduplication"


NO_DEDUPLICATION: Final = NoDeduplication.NO_DEDUPLICATION
"""Says that a consumer shall not deduplicate. Not None, which arguments are by accident."""


class DeduplicationStore(ABC):
    """Remembers which listeners have finished which messages, who is at work, and how often each has tried.

    A listener is claimed before it runs, completed when it returned, abandoned when it failed: never marked before it
    ran, or a crash would lose the message. All methods are thread-safe. A store may keep a database transaction open
    between ``claim`` and ``complete`` (its own ``Claimed`` is handed back to it), so that effect and mark are committed
    together.

    Attempts are counted by ``claim``, in the same atomic step: a process that dies in the middle of a run has used one.
    They are remembered for as long as marks are.

    A claim is lost once another has taken the key, whatever became of that one. A lease that expired while nobody did
    can still be completed, abandoned and renewed, for the work was done; a store that forgets such a claim early calls
    it lost. A call that is repeated, because an answer got lost, is recognised by its token.

    Each method raises ``DeduplicationError`` when the store is unavailable; nothing is decided then.

    ``keyword_names`` are what listeners may ask for by name, beside the keywords that they all have: a session for
    one. ``listeners_are_async`` is True where only asynchronous listeners can work with the store, False where only
    the others can. ``outlives_process`` says whether attempts and marks are still there after a crash.
    """

    keyword_names: tuple[str, ...] = ()
    listeners_are_async: bool | None = None
    outlives_process: bool = False

    def use_event_loop(self, run_coroutine: RunCoroutine) -> None:
        """Take note of the event loop of the worker that begins to use the store; most have no use for it."""
        return

    @abstractmethod
    def claim(self, key: DeduplicationKey, token: str, lease_seconds: float) -> Claimed | ClaimRefusal:
        """Claim the key, for ``lease_seconds`` unless renewed, and count an attempt; one claim of a key holds at a time.

        The caller makes the token. Claiming again with the same token succeeds, starts the lease anew, and is the same
        attempt. Refusals count none.
        """

    @abstractmethod
    def complete(self, claimed: Claimed) -> bool:
        """Mark the key as done; False when the claim was lost meanwhile, and nothing is marked.

        Completing again is True as long as the mark is there. An error other than ``DeduplicationError`` says that
        the listener failed after all, and that nothing is marked.
        """

    @abstractmethod
    def abandon(self, claimed: Claimed, *, began: bool = True) -> bool:
        """Give the claim back so that another may have it at once; False when there is none to give.

        The attempt stays counted, unless ``began`` is False: then the listener was never called. What was completed
        stays so.
        """

    @abstractmethod
    def forget_attempts(self, key: DeduplicationKey) -> None:
        """Forget the attempts made for the key, since its message was dead-lettered: moved back, it begins anew.

        Neither marks nor claims change. Does nothing where there are no attempts.
        """

    @abstractmethod
    def renew(self, claimed: Claimed, lease_seconds: float) -> bool:
        """Keep the claim for ``lease_seconds`` from now; False when it was lost meanwhile."""

    @abstractmethod
    def check(self) -> None:
        """Raise ``DeduplicationError`` while the store is unavailable; asked before polling goes on."""
