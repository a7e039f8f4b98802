"""The broker: everything that the server keeps, in one object.

Take ``broker.lock`` to read or change anything below it. Times are seconds since 1970 by ``broker.now()``, which
never goes back.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from melange.clock import Clock, SystemClock
from melange.engine.standard import Disorder
from melange.errors import ConfigurationError
from melange.messages import new_uuid
from melange.server.event_log import EventLog
from melange.server.sns.http_deliveries import HttpDeliveries
from melange.server.sns.signing import Signer

if TYPE_CHECKING:
    from melange.server.sns.topics import Subscription, Topic
    from melange.server.sqs.move_tasks import MoveTask
    from melange.server.sqs.queues import Queue
    from melange.server.state import BrokerState
    from melange.server.storage import Storage


LONGEST_ADVANCE_SECONDS = 366 * 86_400.0
"""By how much callers move the clock ahead at once."""


class EpochClock:
    """The clock of a broker: its monotonic time is seconds since 1970, so that it can be shown and kept."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._monotonic = clock.monotonic
        self._offset = clock.now().timestamp() - clock.monotonic()
        self.advanced_seconds = 0.0

    def monotonic(self) -> float:
        return self._monotonic() + self._offset

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.monotonic(), UTC)

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        self._clock.wait(condition, seconds)

    def advance(self, seconds: float) -> None:
        """Move it ahead. Receives that wait for a time must be woken by the caller."""
        self._offset += seconds
        self.advanced_seconds += seconds


class Broker:
    """The topics, queues, subscriptions and move tasks of all accounts and regions, by ARN.

    Args:
        clock: the clock of deadlines, delays, ages and waits.
        strict: True enforces the rules of sixty seconds: between two purges of a queue, and before the name of a
            deleted queue can be used again.
        disorder: the order and the duplicates of standard queues.
        max_bytes: sends are refused while messages take more memory than this; None means no limit.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        strict: bool = False,
        disorder: Disorder | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self.clock = EpochClock(clock or SystemClock())
        self.now = self.clock.monotonic
        """Return the seconds since 1970."""
        self.strict = strict
        self.disorder = disorder or Disorder(seed=None, duplicates=0, shuffle=False)
        self.max_bytes = max_bytes
        self.lock = threading.Lock()
        self.queues: dict[str, Queue] = {}
        self.topics: dict[str, Topic] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.move_tasks: OrderedDict[str, MoveTask] = OrderedDict()
        self.deleted_queues: dict[str, float] = {}
        """When queues were deleted, by ARN, for the rules of sixty seconds."""
        self.event_log = EventLog()
        self.bytes_kept = 0
        """About the memory that messages take."""
        self.signer = Signer()
        self.http_deliveries = HttpDeliveries(self)
        self.next_number = 1
        self.numbers: Iterator[int] = iter(self._take_number, None)
        self.id_prefix = new_uuid()[:24]
        self.storage: Storage | None = None
        self.is_closed = False

    def _take_number(self) -> int:
        number, self.next_number = self.next_number, self.next_number + 1
        return number

    def keep_in(self, storage: Storage) -> None:
        """Have changes kept in a file from now on."""
        self.storage = storage

    def commit(self, *, is_topology_changed: bool) -> None:
        """Write what has changed, so that it may be answered. Takes the lock.

        Raises:
            ServiceError: it cannot be written.
        """
        if self.storage is not None:
            with self.lock:
                if is_topology_changed:
                    self.storage.topology_changed()
                self.storage.commit()

    def advance(self, seconds: float) -> None:
        """Move the clock ahead: what is due within ``seconds`` happens now. Takes the lock."""
        with self.lock:
            self.clock.advance(seconds)
            for queue in self.queues.values():
                queue.stored.waiters.wake_all()
        self.http_deliveries.wake()

    def set_disorder(self, *, duplicates: float, shuffle: bool) -> None:
        """Change what standard queues do to messages. Takes the lock.

        Raises:
            ConfigurationError: ``duplicates`` is not a share from 0 to 1.
        """
        Disorder(seed=None, duplicates=duplicates, shuffle=shuffle)  # checks them
        with self.lock:
            self.disorder.duplicates, self.disorder.shuffle = duplicates, shuffle

    def reset(self) -> None:
        """Forget all topics, queues, subscriptions and messages; the clock goes on. Takes the lock."""
        with self.lock:
            self._clear()

    def snapshot(self) -> BrokerState:
        """Return all topics, queues, subscriptions and messages as they are now, for ``restore``. Takes the lock."""
        from melange.server.state import state_of  # noqa: PLC0415 - state needs this module

        with self.lock:
            return state_of(self)

    def restore(self, snapshot: BrokerState) -> None:
        """Have exactly what the snapshot has, as if it were taken now: the clock goes on. Takes the lock.

        Receives that wait return without a message. Raises ``ConfigurationError``, and changes nothing, if the snapshot
        comes from a file that is damaged.
        """
        from melange.server.state import restore, state_of  # noqa: PLC0415

        with self.lock:
            before = state_of(self)
            try:
                self._clear()
                restore(self, snapshot, is_as_new=True)
            except Exception as error:  # a damaged file can raise anything
                self._clear()
                restore(self, before, is_as_new=True)
                raise ConfigurationError(f"the snapshot is damaged: {error!r:.200}") from error

    def close(self) -> None:
        """End everything that waits or works in the background. Takes the lock. Idempotent."""
        with self.lock:
            self.is_closed = True
            self._end_waits()
        self.http_deliveries.close()

    def _clear(self) -> None:
        self._end_waits()
        for state in (self.queues, self.topics, self.subscriptions, self.move_tasks, self.deleted_queues):
            state.clear()
        self.http_deliveries.clear()
        self.event_log.clear()
        self.bytes_kept = 0
        if self.storage is not None:
            self.storage.all_changed()

    def _end_waits(self) -> None:
        for queue in self.queues.values():
            queue.stored.end_waits()

    def message_id(self, origin: int) -> str:
        """Return the id, a UUID, of the message that had this number when it was first sent."""
        return f"{self.id_prefix}{origin:012x}"

    def number_in(self, message_id: str) -> int | None:
        """Return the number that an id of ``message_id()`` stands for; None for another id."""
        prefix, digits = message_id[: len(self.id_prefix)], message_id[len(self.id_prefix) :]
        is_ours = prefix == self.id_prefix and len(digits) == 12 and set(digits) <= set("0123456789abcdef")
        return int(digits, 16) if is_ours else None

    def new_token(self) -> str:
        """Return text that cannot be guessed."""
        return secrets.token_hex(16)
