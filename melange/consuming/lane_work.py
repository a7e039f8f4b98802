"""The deliveries of one queue that run in order: their beginning, their retries and their end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.leases import Lease
from melange.consuming.ordering import Lanes, lane_of
from melange.consuming.outcomes import Defer, Outcome
from melange.consuming.retry_timers import Timers

logger = logging.getLogger(__name__)


class LaneWork:
    """Begins the heads of lanes, and settles them or keeps them in flight until their retries. Thread-safe.

    At most ``most_waiting`` deliveries wait for retries. ``begin`` works on deliveries; ``settle`` settles one, and returns
    True if its message is gone; ``release`` makes deliveries visible again after some seconds; ``end_lease`` ends a lease
    without a call to the broker.
    """

    def __init__(
        self,
        consumer: ExchangeMessageConsumer,
        timers: Timers,
        *,
        most_waiting: int,
        begin: Callable[[list[Lease]], None],
        settle: Callable[[Lease, Outcome], bool],
        release: Callable[[Sequence[Lease], float], None],
        end_lease: Callable[[Lease], None],
    ) -> None:
        self._consumer = consumer
        self._timers = timers
        self._most_waiting = most_waiting
        self._begin = begin
        self._settle = settle
        self._release = release
        self._end_lease = end_lease
        self._lanes = Lanes()

    @property
    def waiting(self) -> int:
        """The number of deliveries that wait for a retry."""
        return self._lanes.waiting

    def heads_of(self, leases: Sequence[Lease]) -> list[Lease]:
        """Put the leases into their lanes; return those that may begin."""
        consumer = self._consumer
        ready: list[Lease] = []
        for lease in leases:
            lease.lane = lane_of(
                lease.delivery, consumer.options.ordered_by, consumer.serializer, consumer.event_type
            )
            if lease.lane is not None:
                lost = self._lanes.lost_head(lease.lane)
                if lost is not None:
                    self.lost(lost)
            if lease.lane is None or self._lanes.enter(lease.lane, lease):
                ready.append(lease)
        return ready

    def conclude(self, lease: Lease, outcome: Outcome) -> None:
        """Settle the head of a lane and begin the next one, or keep it in flight until its retry."""
        lane = lease.lane
        if isinstance(outcome, Defer) and not lease.is_lost():
            try:
                self._retry(lease, outcome.delay_seconds)
                return
            except BaseException:  # or the head would be renewed forever, and its lane would stand still
                logger.exception("the retry of message %s was broken off", lease.delivery.message.message_id)
                self._end_lease(lease)
        elif self._settle(lease, outcome):
            following = self._lanes.advance(lane, lease)
            if following is not None:
                self._begin([following])
            return
        # It comes back, and nothing of its lane may overtake it.
        self._release([other for other in self._lanes.clear(lane) if other is not lease], 0)

    def lost(self, lease: Lease) -> None:
        """Free the lane of a head that waits for its retry: its message is delivered again, and comes first again."""
        if lease.lane is None:
            return
        lane = self._lanes.clear_waiting(lease.lane, lease)
        if lane:
            self._end_lease(lease)
            self._release(lane[1:], 0)

    def close(self) -> list[Lease]:
        """Remove all lanes; return the deliveries behind their heads."""
        return self._lanes.close()

    def _retry(self, lease: Lease, delay_seconds: float) -> None:
        """Keep the head of a lane in flight until its retry, so that its followers are not received repeatedly."""
        lease.retries += 1
        if self._consumer.queue.is_fifo:
            # The broker holds them back while the head is in flight: they need no place among what is in flight here.
            self._release(self._lanes.followers(lease.lane), 0)
        # A few groups that fail must leave capacity to the others. Beyond that they wait at the broker.
        if not (
            self._lanes.wait(lease.lane, lease, most=self._most_waiting)
            and self._timers.after(delay_seconds, self._resume, lease)
        ):
            self._release(self._lanes.clear(lease.lane) or [lease], delay_seconds)

    def _resume(self, lease: Lease) -> None:
        if self._lanes.resume(lease.lane, lease):
            self._begin([lease])
