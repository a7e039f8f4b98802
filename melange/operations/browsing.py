"""Going through a dead-letter queue once, under leases that are renewed and released at the end."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from melange.drivers.base import MessagingDriver
from melange.drivers.dead_letters import DeadLetterAccess, FoundDeadLetter
from melange.errors import DriverError, LeaseLostError
from melange.messages import Delivery, Queue

SHORTEST_LEASE_SECONDS = 60
_LONGEST_LEASE_SECONDS = 3_600
_SECONDS_PER_MESSAGE = 0.02
"""Twice the time of a slow receive of ten, a release of ten and a renewal of ten, for one of them."""

_RENEWED_AT_ONCE = 100
_MOST_CALLS_AT_ONCE = 8
_MESSAGES_FOR_A_CALL = 100
_BATCH = 10


class Browsing:
    """Takes each message of a queue once and keeps it invisible until the block ends. Not thread-safe.

    What was not settled becomes visible again at the end of the block, in any case after the lease. The lease is longer for
    a longer queue, so that the first message does not come back before the last was seen. A long queue is received from
    and released with several calls at once; a FIFO queue with one, because its order matters.
    """

    def __init__(self, driver: MessagingDriver, access: DeadLetterAccess, queue: Queue, count: int) -> None:
        self._driver = driver
        self._access = access
        self._queue = queue
        seconds = int(count * _SECONDS_PER_MESSAGE)
        self._lease_seconds = min(max(SHORTEST_LEASE_SECONDS, seconds), _LONGEST_LEASE_SECONDS)
        calls = 1 if queue.is_fifo else max(1, min(_MOST_CALLS_AT_ONCE, count // _MESSAGES_FOR_A_CALL))
        self._calls = ThreadPoolExecutor(calls, "melange-browse") if calls > 1 else None
        self._calls_at_once = calls
        self._held: dict[str, Delivery] = {}  # the one that was renewed first comes first

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        held, self._held = list(self._held.values()), {}
        try:
            self._release(held)
        except DriverError:
            # They come back by themselves; what went wrong in the block is more important.
            if exception is None:
                raise
        finally:
            if self._calls is not None:
                self._calls.shutdown()

    def take(self) -> list[FoundDeadLetter]:
        """Return the next messages; ``[]`` when there are no more that can be received."""
        self.renew_due()
        found = self._receive()
        for one in found:
            # Without its body, which the lease does not need: there may be a hundred thousand of them.
            bare = one.delivery._replace(message=one.delivery.message._replace(body=""), received=None)
            self._held[one.delivery.receipt_handle] = bare
        return found

    def settled(self, deliveries: Iterable[Delivery]) -> None:
        """Note that these are removed from the queue: they are not released."""
        for delivery in deliveries:
            self._held.pop(delivery.receipt_handle, None)

    def _receive(self) -> list[FoundDeadLetter]:
        def receive(_: int = 0) -> list[FoundDeadLetter]:
            return self._access.browse(self._queue, visibility_timeout_seconds=self._lease_seconds)

        if self._calls is None:
            return receive()
        return [one for found in self._calls.map(receive, range(self._calls_at_once)) for one in found]

    def _release(self, held: list[Delivery]) -> None:
        def release(start: int) -> None:
            self._driver.defer(held[start : start + _BATCH], 0)

        if self._calls is None:
            self._driver.defer(held, 0)
        else:
            for _ in self._calls.map(release, range(0, len(held), _BATCH)):
                pass

    def current(self, delivery: Delivery) -> Delivery | None:
        """Return the delivery with the deadline of its last renewal; None if another receiver may have the message."""
        held = self._held.get(delivery.receipt_handle)
        if held is None or self._driver.clock.monotonic() >= held.deadline:
            return None
        return delivery._replace(deadline=held.deadline)

    def renew_due(self) -> None:
        """Extend the leases of which less than half is left."""
        while self._held:
            now = self._driver.clock.monotonic()
            due: list[Delivery] = []
            for delivery in self._held.values():
                if delivery.deadline - now > self._lease_seconds / 2 or len(due) == _RENEWED_AT_ONCE:
                    break
                due.append(delivery)
            if not due:
                return
            self._renew(due, now + self._lease_seconds)

    def _renew(self, deliveries: list[Delivery], deadline: float) -> None:
        failed = {
            failure.item.receipt_handle: failure.error
            for failure in self._driver.defer(deliveries, self._lease_seconds)
        }
        for delivery in deliveries:
            error = failed.get(delivery.receipt_handle)
            if error is None:
                del self._held[delivery.receipt_handle]
                self._held[delivery.receipt_handle] = delivery._replace(deadline=deadline)
            elif isinstance(error, LeaseLostError):
                del self._held[delivery.receipt_handle]
        for error in failed.values():
            if not isinstance(error, LeaseLostError):
                raise error
