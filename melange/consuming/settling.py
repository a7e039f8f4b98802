"""The only place that acknowledges, defers or dead-letters deliveries."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol

from melange.clock import Clock
from melange.consuming.leases import Lease, LeaseKeeper
from melange.consuming.outcomes import Acknowledge, DeadLetter, Defer, Leave, Outcome
from melange.consuming.poison_messages import Suspects
from melange.consuming.threads import MOST_CALLS, SLOW_CALL_SECONDS, ExtraThreads
from melange.deduplication.base import DeduplicationStore
from melange.drivers.base import Capabilities
from melange.errors import DeduplicationError, Failure, LeaseLostError, shortened
from melange.messages import Delivery, Queue, delivery_log_fields
from melange.middleware import Middleware

logger = logging.getLogger(__name__)

ACKNOWLEDGE_BATCH = 10
GATHERING_SECONDS = 0.005


class SettlingBroker(Protocol):
    """What settling needs of a driver."""

    @property
    def clock(self) -> Clock: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> list[Failure[Delivery]]: ...

    def defer(self, deliveries: Sequence[Delivery], seconds: int) -> list[Failure[Delivery]]: ...

    def dead_letter(self, delivery: Delivery, note: str) -> None: ...


class Settlement(NamedTuple):
    """The number of messages that left their queue, and of those that are delivered again as decided."""

    gone: int
    deferred: int


class Settler:
    """Carries outcomes out against the driver, and ends the leases; thread-safe.

    It raises nothing for a single delivery: if the broker does not accept a call, this is logged, and the message comes
    back.
    """

    def __init__(
        self,
        driver: SettlingBroker,
        queue: Queue,
        store: DeduplicationStore | None,
        backoff: Callable[[int], float],
        *,
        keeper: LeaseKeeper,
        suspects: Suspects,
        keeps_rejected: bool,
        middleware: Sequence[Middleware],
    ) -> None:
        self._driver = driver
        self._queue = queue
        self._store = store
        self._backoff = backoff
        self._keeper = keeper
        self._suspects = suspects
        self._keeps_rejected = keeps_rejected
        self._middleware = middleware
        self.settle: Callable[[Sequence[tuple[Lease, Outcome]]], Settlement] = (
            self._settle_hooked if middleware else self._settle
        )
        """Carries out the outcomes, in as few calls as the driver can. Whatever it raises, the leases have ended."""

    def _settle_hooked(self, outcomes: Sequence[tuple[Lease, Outcome]]) -> Settlement:
        """Settle inside of the hooks; what they do wrong must not keep anything from being settled."""
        if not outcomes:
            return Settlement(0, 0)
        settled: list[Settlement] = []

        def settle() -> None:
            if not settled:
                settled.append(self._settle(outcomes))

        call: Callable[[], object] = settle
        shown = [(lease.delivery, outcome) for lease, outcome in outcomes]
        for one in reversed(self._middleware):
            call = partial(one.around_settle, self._queue, shown, call)
        try:
            call()
        except Exception:
            logger.exception("middleware failed around the settling of %d messages", len(outcomes))
        except BaseException:  # SystemExit of a hook: the messages are finished all the same
            settle()
            raise
        if not settled:
            logger.error("middleware did not settle %d messages: they are settled without it", len(outcomes))
            settle()
        return settled[0]

    def _settle(self, outcomes: Sequence[tuple[Lease, Outcome]]) -> Settlement:
        done: list[Lease] = []
        deferred: list[tuple[Lease, float]] = []
        dead_lettered: dict[str, DeadLetter] = {}
        try:
            for lease, outcome in outcomes:
                if isinstance(outcome, Leave) or lease.remaining_seconds <= 0:
                    # A dead letter would decide for another receiver, which may still succeed.
                    _log_lease_lost(lease.delivery)
                    self._keeper.release([lease])
                elif isinstance(outcome, Acknowledge):
                    lease.is_settling = True
                    done.append(lease)
                elif isinstance(outcome, Defer):
                    deferred.append((lease, outcome.delay_seconds))
                elif self._dead_letter(lease.delivery, outcome):
                    dead_lettered[lease.delivery.receipt_handle] = outcome
                    done.append(lease)
                else:
                    deferred.append((lease, max(1.0, self._backoff(lease.delivery.receive_count))))
            return Settlement(
                gone=self._acknowledge(done, dead_lettered) if done else 0,
                deferred=self.defer(deferred) if deferred else 0,
            )
        except BaseException:
            # A lease that is never released is renewed without end, and its message never comes back.
            self._keeper.release([lease for lease, _ in outcomes])
            raise

    def defer(self, deferrals: Sequence[tuple[Lease, float]]) -> int:
        """Make the deliveries visible again, each after its seconds, 0 for now; return the number that needs nothing more.

        Those have been deferred, or their leases were lost: then they are with their next receivers.
        """
        leases = [lease for lease, _ in deferrals]
        self._keeper.stop_renewing(leases)
        try:
            return self._defer(deferrals)
        finally:
            self._keeper.release(leases)

    def _defer(self, deferrals: Sequence[tuple[Lease, float]]) -> int:
        longest = self._driver.capabilities.max_visibility_seconds
        by_seconds: defaultdict[int, list[Delivery]] = defaultdict(list)
        for lease, seconds in deferrals:
            self._suspects.released(lease.delivery)
            by_seconds[min(math.ceil(seconds), longest)].append(lease.delivery)
        deferred = 0
        for whole_seconds, deliveries in by_seconds.items():
            try:
                failures = self._driver.defer(deliveries, whole_seconds)
            except Exception as error:  # each is delivered again when its lease expires
                _log_not_settled("deferred", deliveries, error)
                continue
            for failure in failures:
                _log_failure(failure.item, "deferred", failure.error)
            still_here = sum(not isinstance(failure.error, LeaseLostError) for failure in failures)
            deferred += len(deliveries) - still_here
        return deferred

    def _acknowledge(self, leases: Sequence[Lease], dead_lettered: Mapping[str, DeadLetter]) -> int:
        deliveries = list(map(attrgetter("delivery"), leases))
        try:
            failures = self._driver.acknowledge(deliveries)
        except Exception as error:
            # They are done and marked: when they are delivered again, they are acknowledged without a run.
            _log_not_settled("acknowledged", deliveries, error)
            return 0
        finally:
            self._keeper.release(leases)
        for failure in failures:
            _log_failure(failure.item, "acknowledged", failure.error)
        if dead_lettered:
            # What could not be acknowledged comes back: with its attempts it is dead-lettered again and does not run.
            failed = {failure.item.receipt_handle for failure in failures}
            for receipt_handle in dead_lettered.keys() - failed:
                self._forget_attempts(dead_lettered[receipt_handle])
        return len(deliveries) - len(failures)

    def _dead_letter(self, delivery: Delivery, outcome: DeadLetter) -> bool:
        """Send the message to the dead-letter queue; return True if it may be acknowledged."""
        dead_letter_queue = self._queue.dead_letter_queue
        if self._keeps_rejected or dead_letter_queue is None:
            reason = (
                "it stays and blocks its group"
                if self._keeps_rejected
                else "it stays: the queue has no dead-letter queue"
            )
            _log_rejected(logging.ERROR, delivery, outcome, reason)
            if outcome.error is not None:  # otherwise processes died in its attempts, and more would
                self._forget_attempts(outcome)
            return False
        note = {
            "reason": outcome.reason,
            "listener": outcome.listener_name,
            "queue": self._queue.name,
            "attempts": outcome.attempts,
            "rejected_at": self._driver.clock.now().isoformat(),
        }
        try:
            self._driver.dead_letter(delivery, json.dumps(note))
        except Exception as error:
            _log_rejected(
                logging.ERROR, delivery, outcome, f"it stays: the dead-letter queue refused it: {error}"
            )
            return False
        _log_rejected(logging.WARNING, delivery, outcome, f"dead-lettered to {dead_letter_queue.name}")
        return True

    def _forget_attempts(self, outcome: DeadLetter) -> None:
        """Let the listeners begin again with attempt 1: the message stays, or may be moved back from the dead letters."""
        try:
            for key in outcome.keys:
                if self._store is not None:
                    self._store.forget_attempts(key)
        except DeduplicationError as error:
            logger.warning("the attempts of a rejected message could not be forgotten: %s", error)


class Acknowledger:
    """Settles finished deliveries beside the listeners, on a thread of its own: ten at once, or those of some milliseconds.

    While ten more wait for a call that waits for the network, another thread settles them. ``settle`` must not raise
    anything.
    """

    def __init__(self, settle: Callable[[list[tuple[Lease, Outcome]]], object], queue_name: str) -> None:
        self._settle = settle
        self._done: SimpleQueue[tuple[Lease, Outcome] | None] = SimpleQueue()
        self._full: SimpleQueue[None] = SimpleQueue()
        self._is_gathering = False
        self._last_seconds = 0.0
        name = f"melange-acknowledge-{queue_name}"
        self._thread = threading.Thread(target=self._run, args=(0,), name=name, daemon=True)
        self._beside = ExtraThreads(partial(self._run, ACKNOWLEDGE_BATCH), name, MOST_CALLS - 1)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system cannot start a thread.
        """
        self._thread.start()

    def put(self, lease: Lease, outcome: Outcome) -> None:
        """Settle the delivery soon. Thread-safe."""
        self._done.put((lease, outcome))
        if self._is_gathering and self._done.qsize() >= ACKNOWLEDGE_BATCH - 1:
            self._is_gathering = False
            self._full.put(None)

    def stop(self, timeout_seconds: float) -> None:
        """Settle what was put before, and end the threads."""
        deadline = time.monotonic() + timeout_seconds
        if self._thread.ident is not None:
            self._done.put(None)
            self._full.put(None)
            self._thread.join(timeout_seconds)
            self._beside.join(deadline)

    def _run(self, least: int) -> None:
        """Settle batch by batch until the end, or until fewer than ``least`` wait."""
        while self._done.qsize() >= least and (done := self._next_batch()):
            if self._last_seconds > SLOW_CALL_SECONDS and self._done.qsize() >= ACKNOWLEDGE_BATCH:
                self._beside.add()
            started = time.monotonic()
            self._settle(done)
            self._last_seconds = time.monotonic() - started

    def _next_batch(self) -> list[tuple[Lease, Outcome]]:
        """Return up to ten finished deliveries, once there are some; ``[]`` at the end."""
        entry = self._done.get()
        if entry is not None and self._done.qsize() < ACKNOWLEDGE_BATCH - 1:
            self._is_gathering = True
            try:
                # A note that is left from an earlier batch ends this wait early: harmless.
                self._full.get(timeout=GATHERING_SECONDS)
            except Empty:
                self._is_gathering = False
        done: list[tuple[Lease, Outcome]] = []
        while entry is not None:
            done.append(entry)
            if len(done) == ACKNOWLEDGE_BATCH:
                return done
            try:
                entry = self._done.get_nowait()
            except Empty:
                return done
        self._done.put(None)  # seen by each thread that takes from it
        return done


def _log_failure(delivery: Delivery, what: str, error: Exception) -> None:
    if isinstance(error, LeaseLostError):
        _log_lease_lost(delivery)
    else:
        _log_not_settled(what, [delivery], error)


def _log_not_settled(what: str, deliveries: Sequence[Delivery], error: Exception) -> None:
    for delivery in deliveries:
        logger.error(
            "message %s could not be %s and will be delivered again: %s: %s",
            delivery.message.message_id,
            what,
            type(error).__name__,
            error,
            extra=delivery_log_fields(delivery),
        )


def _log_lease_lost(delivery: Delivery) -> None:
    logger.warning(
        "the lease of message %s expired: it is left to its next receiver",
        delivery.message.message_id,
        extra=delivery_log_fields(delivery),
    )


def _log_rejected(level: int, delivery: Delivery, outcome: DeadLetter, what: str) -> None:
    logger.log(
        level,
        "message %s was rejected (%s); %s",
        delivery.message.message_id,
        shortened(outcome.reason, 1_000),
        what,
        extra=delivery_log_fields(delivery),
    )
