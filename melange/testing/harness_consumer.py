"""Running the consumers of a harness, one delivery at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from melange.consuming.consumer import ExchangeMessageConsumer
from melange.consuming.leases import Lease, LeaseKeeper
from melange.consuming.listener import ListenerCall
from melange.consuming.outcomes import LEAVE, Outcome, StoreUnavailableError
from melange.consuming.poison_messages import Suspects
from melange.deduplication.base import RunCoroutine
from melange.errors import DeduplicationError, DriverConnectionError, TimeLimitExceeded
from melange.middleware import Middleware
from melange.testing.clock import ManualClock
from melange.testing.faults import Faults
from melange.testing.harness_driver import HarnessDriver
from melange.testing.history import History, current_run

if TYPE_CHECKING:
    from melange.consuming.worker import Worker


class RunConsumer(Middleware):
    """Processes the deliveries of one consumer as a worker does, in the calling thread, and notes the runs."""

    def __init__(
        self, consumer: ExchangeMessageConsumer, history: History, faults: Faults, clock: ManualClock
    ) -> None:
        self.consumer = consumer  # it is being created, and not complete yet
        self._history = history
        self._faults = faults
        self._clock = clock
        self._store_is_available = True
        self._worker: Worker | None = None

    def worker_started(self, worker: Worker) -> None:
        self._worker = worker

    def work(self, driver: HarnessDriver, run_coroutine: RunCoroutine) -> bool:
        """Receive, process and settle one delivery; return False if there is none.

        ``run_coroutine`` runs asynchronous listeners, unless the application runs a worker: it has an event loop.
        """
        consumer = self.consumer
        # Without listeners it only binds its queue, or gets them later.
        if not consumer.subscriptions.all or not self._asks_store():
            return False
        try:
            deliveries = consumer.receive(1, 0)
        except DriverConnectionError as error:
            self._history.note_trouble(f"receiving from {consumer.queue.name} failed: {error}")
            return True  # a worker tries again
        if not deliveries:
            return False
        store = consumer.store
        own = consumer.processor.attempts.run_coroutine
        # The listeners' connections may belong to the event loop that the application gave its worker.
        if self._worker is not None and not self._worker.has_ended and own is not None:
            run_coroutine = own
        if store is not None:
            store.use_event_loop(run_coroutine)
        # Nothing renews it: the clock stands still, except in listeners that the test makes slow.
        lease = Lease(deliveries[0], self._clock)
        keeper = LeaseKeeper(driver, consumer.options.visibility_timeout_seconds, store)
        settler = consumer.settler(keeper, Suspects())
        try:
            outcome = self._process(lease, run_coroutine)
        except BaseException:  # such as pytest.fail() in a listener
            settler.defer([(lease, 0)])
            raise
        settler.settle([(lease, outcome)])
        return True

    def _process(self, lease: Lease, run_coroutine: RunCoroutine) -> Outcome:
        processor = self.consumer.processor
        attempts, store = processor.attempts, self.consumer.store
        before, attempts.run_coroutine = attempts.run_coroutine, run_coroutine
        self.consumer.concurrency = 1  # a batch listener does not wait for other events
        attempts.store = self._faults.store_for(store)
        try:
            return processor.process(lease)
        except StoreUnavailableError as error:
            self._store_is_available = False
            self._history.note_trouble(f"message {lease.delivery.message.message_id} waits: {error}")
            return processor.failures.of_store(lease)
        finally:
            attempts.run_coroutine, attempts.store = before, store

    def _asks_store(self) -> bool:
        """Return True if the store is available: while it is not, a worker does not receive."""
        if self._store_is_available:
            return True
        store = self._faults.store_for(self.consumer.store)
        try:
            if store is not None:
                store.check()
            self.consumer.check_store()
        except DeduplicationError:
            return False
        self._store_is_available = True
        return True

    # --- as middleware -----------------------------------------------------------------------------

    def around_listener(self, call: ListenerCall, run: Callable[[ListenerCall], Outcome]) -> Outcome:
        noted = self._history.begin_run(call)
        outside = current_run.set(noted)
        outcome: Outcome = LEAVE
        try:
            outcome = run(self._slowed(call))
        finally:
            noted.outcome = outcome
            current_run.reset(outside)
        return outcome

    def _slowed(self, call: ListenerCall) -> ListenerCall:
        """Return the call with a listener that takes as long as the test says."""
        seconds = self._faults.seconds_of(call.subscription, call.event_type_name)
        if not seconds:
            return call
        process = call.subscription.process

        def slow(event: Any, **keywords: object) -> object:
            self._pass_time(call, seconds)
            return process(event, **keywords)

        return call._replace(subscription=replace(call.subscription, process=slow))

    def _pass_time(self, call: ListenerCall, seconds: float) -> None:
        limit = self.consumer.time_limits.of_run(call.subscription, call.lease)
        lease, visibility = call.lease, self.consumer.options.visibility_timeout_seconds
        left = seconds if limit is None else min(seconds, limit)
        while left > 0:
            step = min(left, visibility / 2)
            self._clock.advance(step)
            left -= step
            self.consumer.driver.defer([lease.delivery], visibility)
            lease.renewed(self._clock.monotonic() + visibility)
            if lease.claimed is not None and self.consumer.store is not None:
                self.consumer.store.renew(lease.claimed, visibility)
        if limit is not None and seconds > limit:
            raise TimeLimitExceeded(f"listener {call.listener_name}", limit)
