"""Messages and deduplication ids in memory, which tell what changes, so that it is written to the file."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from melange.drivers.sqs_rules import DEDUPLICATION_SECONDS
from melange.engine.fifo import DeduplicationWindow
from melange.engine.queue import Copy
from melange.server.sqs.messages import SentMessage

if TYPE_CHECKING:
    from melange.server.storage import Storage


class KeptCopies(dict[int, Copy[SentMessage]]):
    """The copies of a queue; says which of them come and go."""

    def __init__(self, storage: Storage, queue_arn: str, copies: dict[int, Copy[SentMessage]]) -> None:
        super().__init__(copies)
        self._storage = storage
        self._queue_arn = queue_arn

    def __setitem__(self, number: int, copy: Copy[SentMessage]) -> None:
        super().__setitem__(number, copy)
        self._storage.message_changed(self._queue_arn, number)

    def __delitem__(self, number: int) -> None:
        super().__delitem__(number)
        self._storage.message_changed(self._queue_arn, number)

    def clear(self) -> None:
        for number in self:
            self._storage.message_changed(self._queue_arn, number)
        super().clear()


class KeptWindow(DeduplicationWindow[Any]):
    """A deduplication window; says what it remembers."""

    __slots__ = ("_arn", "_storage")

    def __init__(self, storage: Storage, arn: str, window: DeduplicationWindow[Any]) -> None:
        super().__init__()
        self._storage = storage
        self._arn = arn
        for key, until, answer in window.entries():
            self.restore(key, until, answer)
            storage.id_remembered(arn, key, until, answer)

    def remember(self, deduplication_id: Hashable, used_at: float, answer: Any) -> None:
        super().remember(deduplication_id, used_at, answer)
        self._storage.id_remembered(self._arn, deduplication_id, used_at + DEDUPLICATION_SECONDS, answer)

    def clear(self) -> None:
        super().clear()
        self._storage.ids_forgotten(self._arn)
