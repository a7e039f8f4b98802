"""Retrying and removing what was selected, batch by batch: sent first, removed second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from melange.drivers.base import MessagingDriver
from melange.drivers.dead_letters import FoundDeadLetter
from melange.errors import MelangeError
from melange.messages import Delivery, Queue
from melange.operations.browsing import Browsing
from melange.operations.dead_letter import DeadLetter

_SLICE_SECONDS = 0.5
_BATCH = 10
"""What brokers send and acknowledge in one call."""

Selected = tuple[FoundDeadLetter, DeadLetter]
OnProgress = Callable[[int], None]
Stopping = Callable[[], bool]


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
        send: sends the messages of deliveries to a queue and returns the errors by receipt handle; None to only remove.
        target_of: returns the queue for a dead letter; what it raises is reported for that letter.
    """

    def __init__(
        self,
        driver: MessagingDriver,
        browsing: Browsing,
        pace: Pace,
        send: Callable[[Sequence[Delivery], Queue], Mapping[str, MelangeError]] | None,
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

    def settle(self, selected: Iterable[Selected]) -> None:
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

    def _chunks(self, selected: list[Selected]) -> Iterator[list[Selected]]:
        """Split what was received: few are in both queues when the process is killed, and a low rate has no bursts."""
        size = _BATCH if self._pace.rate is None else min(_BATCH, max(1, int(self._pace.rate)))
        for start in range(0, len(selected), size):
            yield selected[start : start + size]

    def _by_target(self, chunk: Sequence[Selected]) -> dict[Queue | None, list[Delivery]]:
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
