"""The event log: what happened to messages, kept in memory, bounded, and written as cheaply as can be.

An entry is a plain tuple, since one is added for each step of each message. Ids, texts and connections between messages
are worked out only when ``stories`` reads it. The log ends with the process.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from melange.server.calls import Caller

EventKind = Literal[
    "published",
    "filtered out",
    "not delivered",
    "delivered over HTTP",
    "HTTP delivery failed",
    "sent",
    "dropped as duplicate",
    "received",
    "visibility changed",
    "deleted",
    "dead-lettered",
    "expired",
    "moved",
    "purged",
    "queue deleted",
]

Entry = tuple[EventKind, float, str, int | str, "Caller | None", tuple[Any, ...]]
"""Kind, time, ARN of the queue or topic, message, caller, details.

A message is its number, or its id where it has none; "" for all of a queue. The details by kind:

- ``published``: the bytes of the content and the ``Notification``;
- ``sent``: the bytes, the ``SentMessage``, when it becomes visible, and the id of the notification or "";
- ``dropped as duplicate``: the id of the notification;
- ``filtered out``: the endpoint, the subscription and its filter policy;
- ``not delivered``, ``delivered over HTTP``, ``HTTP delivery failed``: the endpoint and the reason;
- ``received``: the receive count and when it becomes visible; ``visibility changed``: when it becomes visible;
- ``dead-lettered``: the dead-letter queue, the receive count and the most receives allowed;
- ``moved``: the target and the message's number there.
"""

DEFAULT_MAX_ENTRIES = 50_000
DEFAULT_MAX_BYTES = 32 * 1_048_576


class EventLog:
    """The last entries. The broker's lock guards it.

    Args:
        max_entries: the oldest entries are forgotten above this number.
        max_bytes: and above this many bytes of bodies and attributes.
    """

    def __init__(self, *, max_entries: int = DEFAULT_MAX_ENTRIES, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.forgotten = 0
        """The number of entries that were forgotten."""
        self.counts: Counter[tuple[str, EventKind]] = Counter()
        """The number of entries by ARN and kind, those that were forgotten included."""
        self._entries: deque[Entry] = deque()
        self._bytes = 0

    def add(  # noqa: PLR0917 - by position, as each step of each message comes here
        self,
        kind: EventKind,
        at: float,
        arn: str,
        message: int | str,
        caller: Caller | None = None,
        details: tuple[Any, ...] = (),
    ) -> None:
        """Add an entry; forget the oldest one if there are too many."""
        entries = self._entries
        entries.append((kind, at, arn, message, caller, details))
        self.counts[arn, kind] += 1
        if len(entries) > self.max_entries:
            self._forget_oldest()

    def add_content(  # noqa: PLR0917 - so does each message
        self,
        content_bytes: int,
        kind: Literal["published", "sent"],
        at: float,
        arn: str,
        message: int | str,
        caller: Caller | None,
        details: tuple[Any, ...],
    ) -> None:
        """Add an entry that keeps a message's content; forget the oldest ones if there is too much."""
        self.add(kind, at, arn, message, caller, (content_bytes, *details))
        self._bytes += content_bytes
        while self._bytes > self.max_bytes:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        kind, *_, details = self._entries.popleft()
        if kind in {"published", "sent"}:
            self._bytes -= details[0]
        self.forgotten += 1

    def entries(self) -> list[Entry]:
        """Return the entries from the oldest to the newest."""
        return list(self._entries)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()
        self.counts.clear()
        self._bytes = self.forgotten = 0
