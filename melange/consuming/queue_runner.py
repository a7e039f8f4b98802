"""One queue of a worker: polled on a thread of its own, worked on by the worker's pool."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from melange.backoff import Backoff
from melange.consuming.acknowledging import Acknowledger
from melange.consuming.consumed_queue import ConsumedQueue
from melange.consuming.lanes import Lanes
from melange.consuming.leases import Lease, LeaseKeeper
from melange.consuming.outcomes import ACKNOWLEDGE, LEAVE, Acknowledge, Outcome, Retry
from melange.consuming.pool import Pool
from melange.consuming.slots import Slots
from melange.errors import (
    AccessDeniedError,
    ConfigurationError,
    DeduplicationError,
    DriverClosedError,
    QueueNotFoundError,
)
from melange.messages import Delivery

logger = logging.getLogger(__name__)

_PERMANENT = (AccessDeniedError, ConfigurationError, QueueNotFoundError)
"""What waiting seldom mends: tried for a while longer, in case somebody else mends it."""

_SHORT_POLL_PAUSE_SECONDS = 0.1
"""Between polls that do not wait by themselves, while nothing comes."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A delivery's turn on the pool; ``lane`` is None where no order has to be kept."""

    runner: QueueRunner
    lease: Lease
    lane: Hashable | None

    def __call__(self) -> None:
        self.runner.work(self)


class QueueRunner:
    """Receives what there are slots for, keeps it leased, has it processed, and settles it."""

    def __init__(
        self,
        consumed: ConsumedQueue,
        number: int,
        *,
        slots: Slots,
        pool: Pool,
        shares_slots: bool,
        longest_wait_seconds: int,
        give_up_seconds: float,
        give_up: Callable[[], None],
    ) -> None:
        self.consumed = consumed
        self.last_poll_at: float | None = None
        self.store_is_up = not consumed.needs_store  # asked before the first poll
        self._number = number
        self._slots = slots
        self._pool = pool
        self._shares_slots = shares_slots
        self._wait_seconds = min(consumed.wait_seconds, longest_wait_seconds)
        self._give_up_seconds = give_up_seconds
        self._give_up = give_up
        self._backoff = Backoff(first_seconds=0.5, max_seconds=30.0)
        self._stopping = threading.Event()
        self._lanes = Lanes()
        self._stranded = 0
        self._keeper = LeaseKeeper(consumed.driver, consumed.visibility_timeout_seconds, consumed.store)
        self._acknowledger = Acknowledger(self._acknowledge, consumed.queue.name)
        self._thread = threading.Thread(
            target=self._poll_on, name=f"melange-poll-{consumed.queue.name}", daemon=True
        )

    @property
    def in_hand(self) -> int:
        """How many deliveries are received and not yet settled."""
        return len(self._keeper)

    def start(self) -> None:
        """Begin to poll."""
        self._keeper.start()
        self._acknowledger.start()
        self._thread.start()

    def stop_polling(self) -> None:
        """Let the open poll be the last."""
        self._stopping.set()

    def release_waiting(self, dropped: Iterable[Work]) -> None:
        """Make visible to others at once what was received and has not begun."""
        self._release([*(work.lease for work in dropped if work.runner is self), *self._lanes.close()])

    def finish(self, deadline: float) -> bool:
        """Wait for the last poll and acknowledge what is finished; return whether nothing is left in hand."""
        while self._thread.is_alive() and time.monotonic() < deadline:
            # More than once: the last poll may begin just then.
            self.consumed.driver.end_waits(self.consumed.queue)
            self._thread.join(min(0.2, max(0.0, deadline - time.monotonic())))
        self._acknowledger.stop(max(1.0, deadline - time.monotonic()))
        left = self.in_hand + self._stranded
        if left or self._thread.is_alive():
            logger.error(
                "%d deliveries of queue %s were not finished in time and are left to redelivery",
                left,
                self.consumed.queue.name,
            )
        self._keeper.stop()
        return not left and not self._thread.is_alive()

    # --- polling -----------------------------------------------------------------------------------

    def _poll_on(self) -> None:
        failures, denied_since = 0, math.inf
        while not self._stopping.is_set():
            try:
                self._await_store()
                self._poll()
                failures, denied_since = 0, math.inf
            except Exception as error:
                failures += 1
                # Only what looks permanent counts: an outage before it is no reason to hurry.
                denied_since = (
                    min(denied_since, time.monotonic()) if isinstance(error, _PERMANENT) else math.inf
                )
                if (
                    isinstance(error, DriverClosedError)
                    or time.monotonic() - denied_since >= self._give_up_seconds
                ):
                    logger.critical("giving up on queue %s: %s", self.consumed.queue.name, error)
                    self._give_up()
                    return
                self._pause(failures, error)

    def _poll(self) -> None:
        # A queue that shares slots with others and is idle holds one; while it is busy it asks often.
        is_idle = self._shares_slots and self.in_hand == 0
        most = 1 if is_idle else self.consumed.driver.capabilities.max_receive_batch
        taken = self._slots.take(self._number, most)
        if not taken:
            return
        received: list[Delivery] = []
        try:
            wait_seconds = (
                self._wait_seconds if is_idle or not self._shares_slots else min(1, self._wait_seconds)
            )
            received = self.consumed.receive(taken, wait_seconds)
        finally:
            if len(received) < taken:
                self._slots.give_back(self._number, taken - len(received))
        self.last_poll_at = time.monotonic()
        if received:
            self._accept(received)
        elif not wait_seconds:
            self._stopping.wait(_SHORT_POLL_PAUSE_SECONDS)

    def _accept(self, received: list[Delivery]) -> None:
        leases = self._keeper.hold(received)
        if self._stopping.is_set():
            self._release(leases)
            return
        for lease in leases:
            lane = self.consumed.lane_of(lease.delivery)
            if lane is None or self._lanes.enter(lane, lease):
                self._begin(Work(self, lease, lane))

    def _await_store(self) -> None:
        """Return when the deduplication store is in reach: polling on would only use up attempts."""
        store = self.consumed.store
        if self.store_is_up or store is None:
            return
        store.check()
        self.store_is_up = True
        logger.info("the deduplication store of queue %s is in reach", self.consumed.queue.name)

    def _pause(self, failures: int, error: Exception) -> None:
        # A store that is back should be noticed within seconds.
        pause_seconds = min(self._backoff(failures), 2.0 if isinstance(error, DeduplicationError) else 30.0)
        logger.warning(
            "polling queue %s failed, trying again in %.1f s: %s: %s",
            self.consumed.queue.name,
            pause_seconds,
            type(error).__name__,
            error,
            extra={"queue_name": self.consumed.queue.name},
        )
        self._stopping.wait(pause_seconds)

    # --- working -----------------------------------------------------------------------------------

    def work(self, work: Work) -> None:
        """Process a delivery whose turn has come, and settle it. Called by the pool."""
        lease = work.lease
        outcome = self._outcome_of(lease)
        if work.lane is None:
            self._settle_apart(lease, outcome)
        elif isinstance(outcome, Retry) and not lease.is_lost():
            # In hand, so that those behind it wait without being received again and again.
            lease.attempt += outcome.counts
            # Waiting takes no slots, or a few groups that fail would keep all others from being received.
            self._free_slots(self._lanes.members(work.lane))
            self._begin(work, outcome.delay_seconds)
        elif self._settle_in_lane(lease, outcome):
            self._go_on(work.lane)
        else:
            # It comes back, and nothing of its lane may overtake it.
            self._release(self._lanes.clear(work.lane)[1:])

    def _outcome_of(self, lease: Lease) -> Outcome:
        try:
            return self.consumed.process(lease)
        except DeduplicationError as error:
            self.store_is_up = False
            logger.warning("message %s waits: %s", lease.delivery.message.message_id, error)
            return Retry(self._backoff(1), counts=False)
        except BaseException as error:  # SystemExit from a listener must not end the pool's thread unseen
            return self.consumed.failed(lease, error)

    def _settle_apart(self, lease: Lease, outcome: Outcome) -> None:
        self._free_slots([lease])
        if isinstance(outcome, Acknowledge):
            self._acknowledger.add(lease)
        else:
            self._keeper.release([lease])
            self.consumed.settle([_unless_lost(lease, outcome)])

    def _settle_in_lane(self, lease: Lease, outcome: Outcome) -> bool:
        """Settle the first of a lane; return whether its message is gone, so that the next may begin."""
        self._free_slots([lease])
        self._keeper.release([lease])
        try:
            return self.consumed.settle([_unless_lost(lease, outcome)]).gone == 1
        except Exception:  # or its lane would wait for ever
            logger.exception("message %s could not be settled", lease.delivery.message.message_id)
            return False

    def _go_on(self, lane: Hashable) -> None:
        following = self._lanes.advance(lane)
        if following is not None:
            self._begin(Work(self, following, lane))

    def _begin(self, work: Work, delay_seconds: float = 0.0) -> None:
        if not self._pool.submit(work, delay_seconds):
            self._release([work.lease])

    def _acknowledge(self, leases: list[Lease]) -> None:
        self._keeper.release(leases)
        self.consumed.settle([_unless_lost(lease, ACKNOWLEDGE) for lease in leases])

    def _free_slots(self, leases: list[Lease]) -> None:
        held = [lease for lease in leases if lease.holds_slot]
        for lease in held:
            lease.holds_slot = False
        if held:
            self._slots.give_back(self._number, len(held))

    def _release(self, leases: list[Lease]) -> None:
        if not leases:
            return
        self._free_slots(leases)
        self._keeper.release(leases)
        given_back = 0
        try:
            given_back = self.consumed.release([lease.delivery for lease in leases])
        except Exception as error:
            logger.warning(
                "%d deliveries could not be given back and come back later: %s", len(leases), error
            )
        if self._stopping.is_set() and given_back < len(leases):
            self._stranded += len(leases) - given_back


def _unless_lost(lease: Lease, outcome: Outcome) -> tuple[Delivery, Outcome]:
    """Return what to settle: nothing may be done any more to what somebody else may have by now."""
    # What was tried in hand counts too, for the reason of a dead letter.
    delivery = lease.delivery._replace(receive_count=lease.attempt)
    return delivery, LEAVE if lease.is_lost() else outcome
