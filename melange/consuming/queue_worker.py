"""One queue of a worker: what is received is processed on the worker's threads, and settled or released."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from melange.clock import Clock
from melange.consuming.async_listeners import LoopTasks, SteppedWork
from melange.consuming.concurrency import Changes, Places, QueuePart, Task
from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.event_loop import EventLoop
from melange.consuming.leases import Lease, LeaseKeeper
from melange.consuming.ordering import LaneWork, RetryTimers
from melange.consuming.outcomes import Acknowledge, Defer, Outcome, StoreUnavailableError
from melange.consuming.poison_messages import SUSPECT_RECEIVES, Isolation, Suspects, shuffled
from melange.consuming.polling import Poller
from melange.consuming.settling import Acknowledger, Settler
from melange.consuming.threads import MOST_CALLS, Threads
from melange.messages import Delivery

logger = logging.getLogger(__name__)

SOON_SECONDS = 1.0
"""Deliveries are received ahead only if they would start within this time: a slow worker leaves them to others."""

LEAST_AHEAD = 30
"""A worker that would start fewer within that time is slow. Three batches: one that waits, one that is being received, one
that is being settled."""


@dataclass(frozen=True, slots=True)
class SharedParts:
    """What the queues of a worker share."""

    places: Places
    threads: Threads
    changes: Changes
    timers: RetryTimers
    event_loop: EventLoop
    loop_tasks: LoopTasks
    suspects: Suspects
    isolation: Isolation


class QueueWorker:
    """Receives deliveries up to its capacity, extends their leases, processes and settles them.

    At most ``limit`` deliveries are in flight: received and not yet settled, including waiting retries and running
    acknowledgements. At the limit it does not receive.
    """

    def __init__(
        self,
        consumer: ExchangeMessageConsumer,
        shared: SharedParts,
        part: QueuePart,
        *,
        longest_wait_seconds: int,
        give_up_seconds: float,
        give_up: Callable[[], None],
    ) -> None:
        self.consumer = consumer
        self.limit = part.limit
        self.last_settled_at: float | None = None
        self._batch = consumer.driver.capabilities.max_receive_batch
        self._has_lanes = consumer.queue.is_fifo or consumer.options.ordered_by is not None
        self.poller = Poller(
            consumer,
            shared.threads,
            shared.changes,
            allowance=self._allowance,
            accept=self._accept,
            batch=self._batch,
            most_polls=1 if self._has_lanes or consumer.gates.ask_in_turn else MOST_CALLS,
            longest_wait_seconds=longest_wait_seconds,
            give_up_seconds=give_up_seconds,
            give_up=give_up,
        )
        self._places = shared.places
        self._changes = shared.changes
        self._isolation = shared.isolation
        self._suspects = shared.suspects
        self._part = part
        consumer.concurrency = part.share
        self._lanes = LaneWork(
            consumer,
            shared.timers,
            most_waiting=part.limit // 2,  # of what is in flight
            begin=self._begin,
            settle=lambda lease, outcome: self._settle([(lease, outcome)]),
            release=self._release,
            end_lease=lambda lease: self._keeper.release([lease]),
        )
        self._keeper = LeaseKeeper(
            consumer.driver,
            consumer.options.visibility_timeout_seconds,
            consumer.store,
            self._lanes.lost,
        )
        self._settler = consumer.settler(self._keeper, shared.suspects)
        self._releases = Releases(self._settler, consumer.driver.clock)
        self._acknowledger = Acknowledger(self._settle, consumer.queue.name)
        self._stepped = SteppedWork(
            consumer.processor,
            shared.threads,
            shared.loop_tasks,
            shared.event_loop,
            broken_off=self._broken_off,
            conclude=self._conclude,
            concludes_at_once=lambda lease, outcome: lease.lane is None and isinstance(outcome, Acknowledge),
        )
        self._careful_until = 0.0
        self._mean_seconds = math.inf

    @property
    def in_flight(self) -> int:
        """The number of deliveries that are received and not yet settled."""
        return len(self._keeper)

    @property
    def leases_lost(self) -> int:
        """The number of leases that could not be renewed in time."""
        return self._keeper.lost_count

    @property
    def is_settled(self) -> bool:
        """True if everything that has finished is settled."""
        return self._keeper.is_settled

    def start(self) -> None:
        """Start to poll.

        Raises:
            RuntimeError: the system cannot start a thread.
        """
        self._acknowledger.start()
        if self.consumer.queue.is_fifo and not self.consumer.keeps_attempts:
            # A message that killed the process before comes back within this time. Without attempts that outlive it, the
            # broker's limit of receives ends that, and the messages behind it in its group must not count as received too.
            timeout_seconds = self.consumer.options.visibility_timeout_seconds
            self._careful_until = self.consumer.driver.clock.monotonic() + timeout_seconds
        self.poller.start()

    # --- receiving -----------------------------------------------------------------------------------

    def _allowance(self, asked: int) -> int:
        """Return the number of deliveries that one more poll may ask for, beside those that open polls ask for."""
        at_work = asked + len(self._keeper)
        allowed = self.limit - at_work
        if self._has_lanes:
            at_work -= self._lanes.waiting  # retries that wait take no thread
        # At least what is kept for this queue: quick queues may have received ahead, and their threads will be free soon.
        free = max(self._places.free - asked, self._part.kept - at_work)
        start_soon = SOON_SECONDS * self._places.size / max(self._mean_seconds, 1e-6)
        if start_soon < LEAST_AHEAD:
            allowed = min(allowed, free, self._part.share - at_work)
        else:
            allowed = min(allowed, int(self._places.size + start_soon) - at_work)
            if allowed < self._batch and free <= 0:
                return 0  # there is work: the next poll brings a full batch
        if self._careful_until and self.consumer.driver.clock.monotonic() < self._careful_until:
            allowed = min(allowed, 1)
        return min(allowed, self._batch)

    def _accept(self, received: list[Delivery]) -> None:
        leases = self._keeper.hold(received)
        self._begin(self._lanes.heads_of(leases) if self._has_lanes else leases)

    def _begin(self, leases: list[Lease]) -> None:
        work, is_for_loop = self._way_of_working()
        tasks: list[Task] = []
        suspects: list[Task] = []
        for lease in leases:
            if lease.delivery.receive_count >= SUSPECT_RECEIVES and self._suspects.includes(lease.delivery):
                suspects.append(Task(self._work, lease))
            else:
                tasks.append(Task(work, lease, is_for_loop))
        if tasks and not self._places.put(tasks):
            self._release([task.lease for task in tasks], 0)
        if suspects and not self._isolation.put(shuffled(suspects)):
            self._release([task.lease for task in suspects], 0)

    # --- working -------------------------------------------------------------------------------------

    def _way_of_working(self) -> tuple[Callable[[Lease], bool], bool]:
        """Return how to work on deliveries, and if that is for the event loop."""
        subscriptions, processor = self.consumer.subscriptions, self.consumer.processor
        if processor.waits or not subscriptions.need_event_loop:
            return self._work, False
        if subscriptions.are_all_async and processor.answers_at_once:
            return self._stepped.on_loop, True
        return self._stepped.on_threads, False

    def _work(self, lease: Lease) -> bool:
        """Process a delivery and settle it; asynchronous listeners keep the thread waiting."""
        started = time.monotonic()
        try:
            outcome = self.consumer.processor.process(lease)
        except BaseException as error:  # SystemExit from a listener must not end a thread silently
            outcome = self._broken_off(lease, error)
        self._conclude(lease, outcome, started)
        return True

    def _broken_off(self, lease: Lease, error: BaseException) -> Outcome:
        if isinstance(error, StoreUnavailableError):
            self.poller.store_is_available = False
        return self.consumer.processor.failures.of_processing(lease, error)

    def _conclude(self, lease: Lease, outcome: Outcome, started: float) -> None:
        seconds = time.monotonic() - started
        # Several threads may write at once; an estimate may miss one run.
        mean = self._mean_seconds
        self._mean_seconds = seconds if mean == math.inf else mean + 0.1 * (seconds - mean)
        if lease.lane is not None:
            self._lanes.conclude(lease, outcome)
        elif isinstance(outcome, Acknowledge):
            lease.is_settling = True
            self._acknowledger.put(lease, outcome)
        elif isinstance(outcome, Defer) and self.poller.stopping.is_set() and not lease.is_lost():
            self._release([lease], outcome.delay_seconds)
        else:
            self._settle([(lease, outcome)])

    def _settle(self, outcomes: list[tuple[Lease, Outcome]]) -> bool:
        """Settle the deliveries; return True if their messages are gone. It raises nothing."""
        try:
            return self._settler.settle(outcomes).gone == len(outcomes)
        except BaseException:  # SystemExit of a hook must not end this thread
            logger.exception("settling %d messages was broken off", len(outcomes))
            return False
        finally:
            self.last_settled_at = self.consumer.driver.clock.monotonic()
            self._changes.notify()

    # --- stopping ----------------------------------------------------------------------------------

    def _release(self, leases: Sequence[Lease], delay_seconds: float) -> None:
        self._releases.release(leases, delay_seconds)
        self._changes.notify()

    def stop(self) -> None:
        """Start no further poll."""
        self._releases.hold_back()
        self.poller.stop()

    def release_waiting(
        self, not_begun: list[Lease], retries: list[tuple[Lease, float]], deadline: float
    ) -> None:
        """Release what has not begun, once the last poll has ended; retries with the rest of their delay."""
        self.poller.join(deadline - 1.0)
        address = self.consumer.queue.address
        now = self.consumer.driver.clock.monotonic()
        of_all_queues = (*retries, *((lease, now) for lease in not_begun))
        self._releases.release_all(
            [
                *((lease, due) for lease, due in of_all_queues if lease.delivery.queue.address == address),
                *((lease, now) for lease in self._lanes.close()),
            ]
        )
        self._changes.notify()

    def begin_no_listener(self) -> None:
        """Let no further listener begin: the grace period is over."""
        self._keeper.begin_no_listener()

    def finish(self, deadline: float) -> bool:
        """Wait for the last poll and acknowledge what is finished; return True if nothing is left in flight."""
        self.poller.join(deadline)
        self._release_unanswered_claims()
        self._acknowledger.stop(max(1.0, deadline - time.monotonic()))
        left = self.in_flight + self._releases.stranded
        if left or self.poller.is_polling:
            logger.error(
                "%d deliveries of queue %s were not finished in time and are left to redelivery",
                left,
                self.consumer.queue.name,
            )
        self._keeper.release_all()
        return not left and not self.poller.is_polling

    def _release_unanswered_claims(self) -> None:
        """Release claims with lost answers: after this process nothing could, and their attempts would stay counted."""
        if self.poller.store_is_available:
            return
        try:
            self.consumer.check_store()
        except Exception as error:  # still unavailable: an attempt may stay counted without a run
            logger.warning("the store of queue %s is still unavailable: %s", self.consumer.queue.name, error)


class Releases:
    """Releases the deliveries of one queue of a worker. Thread-safe.

    After ``hold_back`` they are kept until ``release_all``: while the last poll is open, it would receive them again.
    ``stranded`` counts the deliveries that a stopping worker could not release.
    """

    def __init__(self, settler: Settler, clock: Clock) -> None:
        self.stranded = 0
        self._settler = settler
        self._clock = clock
        self._lock = threading.Lock()
        self._is_stopping = False
        self._held_back: list[tuple[Lease, float]] | None = None

    def release(self, leases: Sequence[Lease], delay_seconds: float) -> None:
        """Make the deliveries visible again after the delay."""
        if not leases:
            return
        if self._is_stopping:
            due = self._clock.monotonic() + delay_seconds
            with self._lock:
                if self._held_back is not None:
                    self._held_back.extend((lease, due) for lease in leases)
                    return
        self._defer([(lease, delay_seconds) for lease in leases])

    def hold_back(self) -> None:
        """Keep what is released from now on."""
        with self._lock:
            self._is_stopping, self._held_back = True, []

    def release_all(self, others: Sequence[tuple[Lease, float]]) -> None:
        """Release what was kept, and others, each at its time; nothing is kept from now on."""
        with self._lock:
            held_back, self._held_back = self._held_back or [], None
        now = self._clock.monotonic()
        self._defer([(lease, max(0.0, due - now)) for lease, due in (*held_back, *others)])

    def _defer(self, deferrals: list[tuple[Lease, float]]) -> None:
        stranded = len(deferrals) - self._settler.defer(deferrals)
        if self._is_stopping:
            with self._lock:
                self.stranded += stranded
