"""Going through a dead-letter queue once, under leases; what was selected is settled: sent first, removed second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from melange.drivers.base import MessagingDriver
from melange.drivers.dead_letters import DeadLetterAccess, FoundDeadLetter
from melange.drivers.sqs_rules import MAX_BATCH
from melange.errors import DriverError, LeaseLostError, MelangeError
from melange.messages import Delivery, Queue
from melange.operations.model import DeadLetter

_SHORTEST_LEASE_SECONDS = 60
_LONGEST_LEASE_SECONDS = 3_600
_SECONDS_PER_MESSAGE = 0.02
"""Twice the time of a slow receive of ten, a release of ten and a renewal of ten, for one of them."""

_RENEWED_AT_ONCE = 100
_MOST_CALLS_AT_ONCE = 8
_MESSAGES_FOR_A_CALL = 100


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
        self._lease_seconds = min(max(_SHORTEST_LEASE_SECONDS, seconds), _LONGEST_LEASE_SECONDS)
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
            self._driver.defer(held[start : start + MAX_BATCH], 0)

        if self._calls is None:
            self._driver.defer(held, 0)
        else:
            for _ in self._calls.map(release, range(0, len(held), MAX_BATCH)):
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


# --- retrying and removing ---------------------------------------------------------------------

_SLICE_SECONDS = 0.5

_Selected = tuple[FoundDeadLetter, DeadLetter]
OnProgress = Callable[[int], None]
Stopping = Callable[[], bool]
Send = Callable[[Sequence[Delivery], Queue], Mapping[str, MelangeError]]
"""Sends the messages of deliveries to a queue and returns the errors by receipt handle."""


def never_stopping() -> bool:
    """Return False: it goes on until the queue ends."""
    return False


@dataclass(frozen=True, slots=True)
class NotDone:
    """A dead letter that was selected and is still there, and why."""

    message_id: str
    error: MelangeError


@dataclass(slots=True)
class Report:
    """What became of a selection.

    ``seen`` counts the dead letters that were looked at, ``done`` those that were retried or removed; ``sent_to`` counts
    them by the queue that got them. ``not_done`` lists those that failed, ``unfound_ids`` the ids that were asked for and
    not seen. ``was_stopped`` is True if it was asked to end before the queue did.
    """

    seen: int = 0
    done: int = 0
    sent_to: dict[str, int] = field(default_factory=dict)
    not_done: list[NotDone] = field(default_factory=list)
    unfound_ids: list[str] = field(default_factory=list)
    was_stopped: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast, how many, and until when."""

    rate: float | None = None
    limit: int | None = None
    stopping: Stopping = never_stopping


class Settling:
    """Settles selected dead letters of one browsing, and reports on it.

    Args:
        send: None to only remove.
        target_of: returns the queue for a dead letter; what it raises is reported for that letter.
    """

    def __init__(
        self,
        driver: MessagingDriver,
        browsing: Browsing,
        pace: Pace,
        send: Send | None,
        target_of: Callable[[DeadLetter], Queue],
    ) -> None:
        self.report = Report()
        self.begun_ids: set[str] = set()
        self._driver = driver
        self._browsing = browsing
        self._pace = pace
        self._send = send
        self._target_of = target_of

    @property
    def is_complete(self) -> bool:
        """True if as many were settled as may be."""
        return self.report.done == self._pace.limit

    def settle(self, selected: Iterable[_Selected]) -> None:
        """Settle these, at the pace; each message id once, because a retried message may fail again and come back."""
        fresh = [one for one in selected if one[1].message_id not in self.begun_ids]
        left = None if self._pace.limit is None else self._pace.limit - self.report.done
        for chunk in self._chunks(fresh[:left]):
            if self._pace.stopping():
                return
            self.begun_ids.update(letter.message_id for _, letter in chunk)
            self._browsing.renew_due()
            for target, deliveries in self._by_target(chunk).items():
                self._settle_deliveries(target, deliveries)
            if self._pace.rate is not None:
                self._pause(len(chunk) / self._pace.rate)

    def _chunks(self, selected: list[_Selected]) -> Iterator[list[_Selected]]:
        """Split what was received: few are in both queues when the process is killed, and a low rate has no bursts."""
        size = MAX_BATCH if self._pace.rate is None else min(MAX_BATCH, max(1, int(self._pace.rate)))
        for start in range(0, len(selected), size):
            yield selected[start : start + size]

    def _by_target(self, chunk: Sequence[_Selected]) -> dict[Queue | None, list[Delivery]]:
        by_target: dict[Queue | None, list[Delivery]] = {}
        for found, letter in chunk:
            delivery = self._browsing.current(found.delivery)
            if delivery is None:
                continue  # its lease is over: another receiver may have it
            try:
                target = None if self._send is None else self._target_of(letter)
            except MelangeError as error:
                self.report.not_done.append(NotDone(letter.message_id, error))
                continue
            by_target.setdefault(target, []).append(delivery)
        return by_target

    def _settle_deliveries(self, target: Queue | None, deliveries: list[Delivery]) -> None:
        errors: dict[str, MelangeError] = {}
        if self._send is not None and target is not None:
            try:
                errors.update(self._send(deliveries, target))
            except MelangeError as error:  # refused as a whole
                errors.update({delivery.receipt_handle: error for delivery in deliveries})
        sent = [delivery for delivery in deliveries if delivery.receipt_handle not in errors]
        if sent:
            failures = self._driver.acknowledge(sent)
            errors.update({failure.item.receipt_handle: failure.error for failure in failures})
        done = [delivery for delivery in deliveries if delivery.receipt_handle not in errors]
        self._browsing.settled(done)
        self.report.done += len(done)
        if target is not None and done:
            self.report.sent_to[target.name] = self.report.sent_to.get(target.name, 0) + len(done)
        self.report.not_done += [
            NotDone(delivery.message.message_id, errors[delivery.receipt_handle])
            for delivery in deliveries
            if delivery.receipt_handle in errors
        ]

    def _pause(self, seconds: float) -> None:
        clock, never = self._driver.clock, threading.Condition()
        until = clock.monotonic() + seconds
        while (left := until - clock.monotonic()) > 0 and not self._pace.stopping():
            with never:
                clock.wait(never, min(left, _SLICE_SECONDS))
            self._browsing.renew_due()
