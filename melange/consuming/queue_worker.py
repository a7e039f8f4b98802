"""One queue of a worker: polled on its own thread, processed on the worker's threads, acknowledged in batches."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from melange.backoff import Backoff
from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.isolation import Isolation
from melange.consuming.lanes import Lanes
from melange.consuming.leases import Lease, LeaseKeeper
from melange.consuming.outcomes import ACKNOWLEDGE, Acknowledge, Defer, Outcome
from melange.consuming.scheduling import AHEAD, Task, Threads, Timers
from melange.consuming.suspects import SUSPECT_RECEIVES, Suspects, shuffled
from melange.errors import (
    AccessDeniedError,
    ConfigurationError,
    DeduplicationError,
    DriverClosedError,
    QueueNotFoundError,
)
from melange.messages import Delivery

logger = logging.getLogger(__name__)

QUICK_SECONDS = 1.0
"""Deliveries are received ahead only if they would start within this time: a slow worker leaves them to others."""

ACKNOWLEDGE_BATCH = 10
GATHERING_SECONDS = 0.005

_PERMANENT = (AccessDeniedError, ConfigurationError, QueueNotFoundError)
"""Errors that waiting seldom ends: tried for a while longer, in case the cause is repaired."""

_SHORT_POLL_PAUSE_SECONDS = 0.1
"""The pause between empty polls that do not wait, or that a hook or the broker ends at once."""


class QueueWorker:
    """Receives deliveries up to its capacity, extends their leases, processes and settles them.

    At most ``limit`` deliveries are in flight: received and not yet settled, including waiting retries and running
    acknowledgements. At the limit it does not receive.
    """

    def __init__(
        self,
        consumer: ExchangeMessageConsumer,
        *,
        threads: Threads,
        timers: Timers,
        isolation: Isolation,
        suspects: Suspects,
        others: int,
        longest_wait_seconds: int,
        give_up_seconds: float,
        give_up: Callable[[], None],
    ) -> None:
        self.consumer = consumer
        self.limit = threads.in_flight_limit
        self.last_poll_at: float | None = None
        self.last_settled_at: float | None = None
        self.store_is_available = not consumer.needs_store  # asked before the first poll
        self._threads = threads
        self._timers = timers
        self._isolation = isolation
        self._suspects = suspects
        self._share = threads.size - others  # one thread is left for each other queue
        self._wait_seconds = min(consumer.options.wait_seconds, longest_wait_seconds)
        self._give_up_seconds = give_up_seconds
        self._give_up = give_up
        self._backoff = Backoff(first_seconds=0.5, max_seconds=30.0)
        self._stopping = threading.Event()
        self._lanes = Lanes()
        self._keeper = LeaseKeeper(
            consumer.driver,
            consumer.options.visibility_timeout_seconds,
            consumer.processor.store,
            self._lost,
        )
        self._settler = consumer.settler(self._keeper, suspects)
        self._mean_seconds = math.inf
        self._done: SimpleQueue[Lease | None] = SimpleQueue()
        self._releasing = threading.Lock()
        self._held_back: list[tuple[Lease, float]] | None = []
        self._stranded = 0
        name = consumer.queue.name
        self._poller = threading.Thread(target=self._poll_on, name=f"melange-poll-{name}", daemon=True)
        self._acknowledger = threading.Thread(
            target=self._acknowledge_on, name=f"melange-acknowledge-{name}", daemon=True
        )

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
        """Start to poll."""
        self._acknowledger.start()
        self._poller.start()

    def stop_polling(self) -> None:
        """Start no further poll."""
        self._stopping.set()
        self._threads.changed()

    # --- polling -----------------------------------------------------------------------------------

    def _poll_on(self) -> None:
        self._threads.enter()
        failures, denied_since = 0, math.inf
        while not self._stopping.is_set():
            try:
                self._await_store()
                self._poll()
                failures, denied_since = 0, math.inf
            except Exception as error:
                failures += 1
                # Only what looks permanent counts: an outage before it is not a reason to hurry.
                denied_since = (
                    min(denied_since, time.monotonic()) if isinstance(error, _PERMANENT) else math.inf
                )
                if (
                    isinstance(error, DriverClosedError)
                    or time.monotonic() - denied_since >= self._give_up_seconds
                ):
                    logger.critical("giving up on queue %s: %s", self.consumer.queue.name, error)
                    self._give_up()
                    return
                self._pause(failures, error)
            except BaseException:  # SystemExit from a hook: a worker that does not poll must not look healthy
                logger.critical("polling queue %s was ended", self.consumer.queue.name, exc_info=True)
                self._give_up()
                return

    def _poll(self) -> None:
        limit = self._allowance()
        if limit <= 0:
            self._threads.wait_for(lambda: self._stopping.is_set() or self._allowance() > 0, 1.0)
            return
        started = time.monotonic()
        received = self.consumer.receive(limit, self._wait_seconds)
        self.last_poll_at = self.consumer.driver.clock.monotonic()
        if received:
            self._accept(received)
        elif self.last_poll_at - started < _SHORT_POLL_PAUSE_SECONDS:
            self._stopping.wait(_SHORT_POLL_PAUSE_SECONDS)

    def _allowance(self) -> int:
        """Return the number of deliveries to ask for."""
        allowed = self.limit - len(self._keeper)
        if self._mean_seconds * AHEAD > QUICK_SECONDS * self._threads.size:
            # Retries that wait take no thread.
            at_work = len(self._keeper) - self._lanes.waiting
            allowed = min(allowed, self._threads.free, self._share - at_work)
        return min(allowed, self.consumer.driver.capabilities.max_receive_batch)

    def _accept(self, received: list[Delivery]) -> None:
        leases = self._keeper.hold(received)
        ready: list[Lease] = []
        for lease in leases:
            lease.lane = self.consumer.lane_of(lease.delivery)
            if lease.lane is not None:
                lost = self._lanes.lost_head(lease.lane)
                if lost is not None:
                    self._lost(lost)
            if lease.lane is None or self._lanes.enter(lease.lane, lease):
                ready.append(lease)
        self._begin(ready)

    def _await_store(self) -> None:
        """Wait for the deduplication store: polls before that would only raise receive counts."""
        if self.store_is_available:
            return
        self.consumer.check_store()
        self.store_is_available = True
        logger.info("the deduplication store of queue %s is available", self.consumer.queue.name)

    def _pause(self, failures: int, error: Exception) -> None:
        # The return of a store should be noticed within seconds.
        pause_seconds = min(self._backoff(failures), 2.0 if isinstance(error, DeduplicationError) else 30.0)
        logger.warning(
            "polling queue %s failed, trying again in %.1f s: %s: %s",
            self.consumer.queue.name,
            pause_seconds,
            type(error).__name__,
            error,
            extra={"queue_name": self.consumer.queue.name},
        )
        self._stopping.wait(pause_seconds)

    # --- working -----------------------------------------------------------------------------------

    def _begin(self, leases: list[Lease]) -> None:
        tasks: list[Task] = []
        suspects: list[Task] = []
        for lease in leases:
            is_suspect = lease.delivery.receive_count >= SUSPECT_RECEIVES and self._suspects.includes(
                lease.delivery
            )
            (suspects if is_suspect else tasks).append(Task(self, lease))
        if tasks and not self._threads.put(tasks):
            self._release([task.lease for task in tasks], 0)
        if suspects and not self._isolation.put(shuffled(suspects)):
            self._release([task.lease for task in suspects], 0)

    def work(self, lease: Lease) -> None:
        """Process a delivery and settle it. Called on the worker's threads."""
        started = time.perf_counter()
        outcome: Outcome
        try:
            outcome = self.consumer.processor.process(lease)
        except DeduplicationError as error:
            self.store_is_available = False
            logger.warning("message %s waits: %s", lease.delivery.message.message_id, error)
            outcome = self.consumer.processor.undecided(lease)
        except BaseException as error:  # SystemExit from a listener must not end a thread silently
            outcome = self.consumer.processor.broken_off(lease, error)
        seconds = time.perf_counter() - started
        # Several threads may write at once; an estimate may miss one run.
        mean = self._mean_seconds
        self._mean_seconds = seconds if mean == math.inf else mean + 0.1 * (seconds - mean)
        if lease.lane is not None:
            self._settle_in_lane(lease, outcome)
        elif isinstance(outcome, Acknowledge):
            lease.is_settling = True
            self._done.put(lease)
        elif isinstance(outcome, Defer) and self._stopping.is_set() and not lease.is_lost():
            self._release([lease], outcome.delay_seconds)
        else:
            self._settle([(lease, outcome)])

    def _settle(self, outcomes: list[tuple[Lease, Outcome]]) -> bool:
        """Settle the deliveries; return True if their messages are gone."""
        try:
            return self._settler.settle(outcomes).gone == len(outcomes)
        finally:
            self.last_settled_at = self.consumer.driver.clock.monotonic()
            self._threads.changed()

    def _acknowledge_on(self) -> None:
        """Acknowledge finished messages: ten at once, or those of a few milliseconds."""
        ending = False
        while not ending:
            batch = [self._done.get()]
            if self._done.qsize() < ACKNOWLEDGE_BATCH - 1 and batch[0] is not None:
                time.sleep(GATHERING_SECONDS)  # gathers a batch
            while len(batch) < self.limit:
                try:
                    batch.append(self._done.get_nowait())
                except Empty:
                    break
            ending = None in batch
            done: list[tuple[Lease, Outcome]] = [(lease, ACKNOWLEDGE) for lease in batch if lease is not None]
            if done:
                try:
                    self._settle(done)
                except Exception:
                    logger.exception("%d messages could not be acknowledged", len(done))

    # --- lanes -------------------------------------------------------------------------------------

    def _settle_in_lane(self, lease: Lease, outcome: Outcome) -> None:
        lane = lease.lane
        if isinstance(outcome, Defer) and not lease.is_lost():
            self._retry_in_lane(lease, outcome.delay_seconds)
            return
        try:
            gone = self._settle([(lease, outcome)])
        except Exception:  # or its lane would wait without end
            logger.exception("message %s could not be settled", lease.delivery.message.message_id)
            gone = False
        if gone:
            following = self._lanes.advance(lane, lease)
            if following is not None:
                self._begin([following])
        else:
            # It comes back, and nothing of its lane may overtake it.
            self._release([other for other in self._lanes.clear(lane) if other is not lease], 0)

    def _retry_in_lane(self, lease: Lease, delay_seconds: float) -> None:
        """Keep the head of a lane in flight until its retry, so that its followers are not received repeatedly."""
        lease.retries += 1
        if self.consumer.queue.is_fifo:
            # The broker holds them back while the head is in flight: they need no place among what is in flight here.
            self._release(self._lanes.followers(lease.lane), 0)
        # A few groups that fail must leave capacity to the others. Beyond half of it they wait at the broker.
        if not (
            self._lanes.wait(lease.lane, lease, most=self.limit // 2)
            and self._timers.after(delay_seconds, self._resume, lease)
        ):
            self._release(self._lanes.clear(lease.lane) or [lease], delay_seconds)

    def _resume(self, lease: Lease) -> None:
        if self._lanes.resume(lease.lane, lease):
            self._begin([lease])

    def _lost(self, lease: Lease) -> None:
        """Free the lane of a head that waits for its retry: its message is delivered again, and comes first again."""
        if lease.lane is None:
            return
        lane = self._lanes.clear_waiting(lease.lane, lease)
        if lane:
            self._keeper.release([lease])
            self._release(lane[1:], 0)
            self._threads.changed()

    # --- releasing -------------------------------------------------------------------------------

    def _release(self, leases: list[Lease], delay_seconds: float) -> None:
        """Make visible again, after the delay, what was not finished here.

        While the worker stops, only when the last poll has ended: before, that would receive it again.
        """
        if not leases:
            return
        if self._stopping.is_set():
            due = self.consumer.driver.clock.monotonic() + delay_seconds
            with self._releasing:
                if self._held_back is not None:
                    self._held_back.extend((lease, due) for lease in leases)
                    return
        self._defer([(lease, delay_seconds) for lease in leases])

    def _defer(self, deferrals: list[tuple[Lease, float]]) -> None:
        released = self._settler.defer(deferrals)
        if self._stopping.is_set():
            self._stranded += len(deferrals) - released
        self._threads.changed()

    def release_waiting(
        self, not_begun: list[Lease], retries: list[tuple[Lease, float]], deadline: float
    ) -> None:
        """Release what has not begun, once the last poll has ended; retries with the rest of their delay."""
        self._join_poller(deadline - 1.0)
        with self._releasing:
            held_back, self._held_back = self._held_back or [], None
        address = self.consumer.queue.address
        now = self.consumer.driver.clock.monotonic()
        self._defer(
            [
                (lease, max(0.0, due - now))
                for lease, due in (*retries, *held_back, *((lease, now) for lease in not_begun))
                if lease.delivery.queue.address == address
            ]
            + [(lease, 0.0) for lease in self._lanes.close()]
        )

    def _join_poller(self, deadline: float) -> None:
        while self._poller.is_alive() and time.monotonic() < deadline:
            # Repeated, because the last poll may start at this moment.
            self.consumer.driver.end_waits(self.consumer.queue)
            self._poller.join(min(0.2, max(0.0, deadline - time.monotonic())))

    def finish(self, deadline: float) -> bool:
        """Wait for the last poll and acknowledge what is finished; return True if nothing is left in flight."""
        if self._acknowledger.ident is None:  # it could not be started, so nothing was received
            return True
        self._join_poller(deadline)
        self._release_unanswered_claims()
        self._done.put(None)
        self._acknowledger.join(max(1.0, deadline - time.monotonic()))
        left = self.in_flight + self._stranded
        if left or self._poller.is_alive():
            logger.error(
                "%d deliveries of queue %s were not finished in time and are left to redelivery",
                left,
                self.consumer.queue.name,
            )
        self._keeper.release_all()
        return not left and not self._poller.is_alive()

    def _release_unanswered_claims(self) -> None:
        """Release claims with lost answers: after this process nothing could, and their attempts would stay counted."""
        if self.store_is_available:
            return
        try:
            self.consumer.check_store()
        except Exception as error:  # still unavailable: an attempt may stay counted without a run
            logger.warning("the store of queue %s is still unavailable: %s", self.consumer.queue.name, error)
