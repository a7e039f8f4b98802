"""One attempt of one listener on one delivery: claim it in the deduplication store, run it, mark it as finished."""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any

from melange.consuming.failures import Failures, StoreUnavailableError
from melange.consuming.leases import Lease
from melange.consuming.options import Deduplication
from melange.consuming.outcomes import ACKNOWLEDGE, DUPLICATE, LEAVE, DeadLetter, Outcome, checked_outcome
from melange.consuming.subscriptions import ListenerCall, Subscription
from melange.consuming.time_limit import LimitedRuns
from melange.deduplication.base import (
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
    RunCoroutine,
)
from melange.errors import ConfigurationError, DecodeError, DeduplicationError, TimeLimitExceeded
from melange.messages import content_of, handled_message, new_uuid
from melange.middleware import Middleware
from melange.serialization.serializer import EventSerializer

logger = logging.getLogger(__name__)

MOST_REMEMBERED_CLAIMS = 1_000

_new = tuple.__new__
"""Makes a named tuple of its fields, in half of the time of its own constructor."""

Steps = Generator[Awaitable[object] | None, BaseException | None, Outcome]
"""Yields what asynchronous listeners return, receives the exception with which each ended, and returns the outcome.

None is yielded before a step that may block."""


class Attempts:
    """Runs listeners, each at most once at a time for a message, and not again when it has finished.

    Thread-safe if the listeners are. A worker sets ``run_coroutine``, which runs a coroutine and blocks until its end.
    ``is_hooked`` is True if hooks around listeners must wait in a thread for asynchronous listeners.
    """

    def __init__(
        self,
        serializer: EventSerializer,
        store: DeduplicationStore | None,
        failures: Failures,
        *,
        deduplication: Deduplication,
        middleware: Sequence[Middleware],
        timeout_seconds: float | None,
    ) -> None:
        self.store = store
        self.limited_runs = LimitedRuns()
        self.run_coroutine: RunCoroutine | None = None
        self._serializer = serializer
        self._failures = failures
        self._runs_without_store = deduplication.on_unavailable == "process"
        self._by_broker_id = deduplication.identity == "broker"
        self._timeout_seconds = timeout_seconds
        self._unanswered: deque[Claimed] = deque(maxlen=MOST_REMEMBERED_CLAIMS)
        self._run: Callable[[ListenerCall], Outcome] = self._run_listener
        for one in reversed(middleware):
            if type(one).around_listener is not Middleware.around_listener:
                self._run = _through(one.around_listener, self._run)
        self.is_hooked = self._run != self._run_listener

    def make(self, listener: Subscription, event_type_name: str, data: Any, lease: Lease) -> Outcome:
        """Run the listener, unless it has finished this message before, or is running for it elsewhere.

        Raises:
            StoreUnavailableError: the store is unavailable; nothing was decided.
        """
        call = self._claimed_call(listener, event_type_name, data, lease)
        if not isinstance(call, ListenerCall):
            return call
        # Around the completion too: with an inbox it commits what the listener did.
        outside = handled_message.set(lease.delivery.message)
        try:
            return self._run(call)
        except StoreUnavailableError:
            raise
        except Exception as error:  # from middleware: what listeners raise is an outcome by now
            if lease.has_begun:
                return self._failures.of_run(call, error)
            return self._failures.outside_of_listeners(lease, error, "middleware")
        finally:
            if lease.claimed is not None:
                self._abandon(lease)
            handled_message.reset(outside)

    def steps(self, listener: Subscription, event_type_name: str, data: Any, lease: Lease) -> Steps:
        """Do the same for an asynchronous listener without hooks, and without a thread that waits for it."""
        call = self._claimed_call(listener, event_type_name, data, lease)
        if not isinstance(call, ListenerCall):
            return call
        handled_message.set(lease.delivery.message)  # all steps of a delivery share a context of their own
        lease.has_begun = True
        try:
            error: BaseException | None = None
            try:
                result = listener.run(call)
            except Exception as raised:  # by a function that returns a coroutine
                error = raised
            else:
                if inspect.isawaitable(result):
                    error = yield self._limited(call, result)
            if isinstance(error, Exception):
                return self._failed(call, error)
            if error is not None:
                raise error
            return self._completed(call)
        finally:
            if lease.claimed is not None:
                self._abandon(lease)

    def release_unanswered(self) -> None:
        """Release the claims that were granted in an answer that got lost: the listeners did not run.

        Raises:
            DeduplicationError: the store is unavailable.
        """
        while self.store is not None:
            try:
                claimed = self._unanswered.popleft()
            except IndexError:
                return
            try:
                self.store.abandon(claimed, began=False)
            except DeduplicationError:
                self._unanswered.append(claimed)
                raise

    def time_limit_of(self, listener: Subscription, lease: Lease) -> float | None:
        """Return the time limit of one run of the listener; None without a limit."""
        limit = self._own_limit_of(listener)
        if lease.cutoff == math.inf:
            return limit
        left = lease.seconds_to_cutoff
        return left if limit is None else min(left, limit)

    def _own_limit_of(self, listener: Subscription) -> float | None:
        return self._timeout_seconds if listener.timeout_seconds is None else listener.timeout_seconds

    # --- the claim -----------------------------------------------------------------------------------

    def _claimed_call(
        self, listener: Subscription, event_type_name: str, data: Any, lease: Lease
    ) -> ListenerCall | Outcome:
        """Return the listener's call with its claim, or the outcome if it may not run."""
        remaining_seconds = lease.remaining_seconds
        if remaining_seconds <= 0:
            return LEAVE
        try:
            event = self._serializer.load(event_type_name, data, listener.event_classes.get(event_type_name))
        except DecodeError as error:
            return DeadLetter(f"malformed message: {error}", listener.name)
        lease.claimed = None
        lease.has_begun = lease.is_completing = False
        store = self.store
        if store is None:
            attempt = lease.receives
        else:
            delivery = lease.delivery
            message_id = (self._by_broker_id and delivery.broker_message_id) or delivery.message.message_id
            key = _new(
                DeduplicationKey,
                (delivery.queue.address, listener.name, message_id, content_of(delivery.message)),
            )
            token = new_uuid()
            try:
                if self._unanswered:
                    self.release_unanswered()
                claimed = store.claim(key, token, remaining_seconds)
            except DeduplicationError as error:
                # It may have been granted all the same, with the answer lost: released when the store can be asked.
                self._unanswered.append(Claimed(key, token))
                if self._runs_without_store:
                    return ListenerCall(listener, event, event_type_name, lease, lease.receives, None)
                raise StoreUnavailableError(str(error)) from error
            if isinstance(claimed, ClaimRefusal):
                return DUPLICATE if claimed is ClaimRefusal.DONE else self._failures.of_claim(lease)
            lease.claimed = claimed
            attempt = claimed.attempt
        call = _new(ListenerCall, (listener, event, event_type_name, lease, attempt, lease.claimed))
        if attempt > 1 and (outcome := self._failures.without_result(call)) is not None:
            if lease.claimed is not None:
                self._abandon(lease)
            return outcome
        return call

    def _completed(self, call: ListenerCall) -> Outcome:
        """Mark the listener as finished. It has run, so this waits for a store that is unavailable."""
        lease, claimed, store = call.lease, call.claimed, self.store
        if claimed is not None and store is not None:
            # From now on the answer to the completion decides if the claim was held, not a renewal.
            lease.is_completing = True
            pause_seconds = 0.1
            while True:
                lease.claimed = None
                try:
                    if not store.complete(claimed):
                        return LEAVE  # a lost claim belongs to another worker now, which will acknowledge
                    break
                except DeduplicationError as error:
                    if self._runs_without_store:
                        break
                    lease.claimed = claimed
                    if lease.is_lost():
                        raise StoreUnavailableError(str(error)) from error
                    logger.warning("message %s is done, its mark waits: %s", claimed.key.message_id, error)
                except Exception as error:  # the store says that the listener failed after all
                    return self._failed(call, error)
                threading.Event().wait(pause_seconds)
                pause_seconds = min(1.0, 2 * pause_seconds)
        lease.has_begun = False  # it has ended: what hooks do from now on is not an attempt
        return ACKNOWLEDGE

    def _failed(self, call: ListenerCall, error: Exception) -> Outcome:
        if isinstance(error, TimeLimitExceeded) and self._was_cut_short(call, error):
            call.lease.has_begun = False  # its neighbours had used up the time: that is not an attempt
            outcome: Outcome = self._failures.of_cut_run(call, error)
        else:
            outcome = self._failures.of_run(call, error)
        if call.claimed is not None:
            call.lease.claimed = call.claimed
            if isinstance(error, TimeLimitExceeded) and self.store is not None:
                self.store.give_up(call.claimed)
            self._abandon(call.lease)
        return outcome

    def _was_cut_short(self, call: ListenerCall, error: TimeLimitExceeded) -> bool:
        """Return True if the end of the process ended the run, and left it less than its share of the time."""
        own_limit = self._own_limit_of(call.subscription)
        return error.limit_seconds < min(
            call.lease.fair_seconds, math.inf if own_limit is None else own_limit
        )

    def _abandon(self, lease: Lease) -> None:
        """Release a claim that is left, so that no other worker waits for it: after a failure, KeyboardInterrupt, hooks.

        If that fails the claim ends with its lease, which must not hide how the listener ended.
        """
        claimed, lease.claimed = lease.claimed, None
        if claimed is not None and self.store is not None:
            try:
                self.store.abandon(claimed, began=lease.has_begun)
            except DeduplicationError as error:
                logger.warning(
                    "the claim on message %s could not be released: %s", claimed.key.message_id, error
                )

    # --- the run -------------------------------------------------------------------------------------

    def _run_listener(self, call: ListenerCall) -> Outcome:
        """Run the listener, then mark it as finished or release its claim."""
        listener, lease = call.subscription, call.lease
        lease.has_begun = True
        try:
            if self._timeout_seconds or listener.timeout_seconds or lease.cutoff != math.inf:
                result = self._run_limited(call)
            elif listener.keywords:
                result = listener.run(call)
            else:
                result = listener.process(call.event)
            if result is not None and inspect.isawaitable(result):
                self._await(call, result)
        except Exception as error:
            return self._failed(call, error)
        return self._completed(call)

    def _run_limited(self, call: ListenerCall) -> object:
        listener = call.subscription
        limit = self.time_limit_of(listener, call.lease)
        if limit is None or listener.is_async:  # a coroutine has its limit when it is awaited
            return listener.run(call)
        return self.limited_runs.run(lambda: listener.run(call), limit, f"listener {listener.name}")

    def _limited(self, call: ListenerCall, result: Awaitable[object]) -> Awaitable[object]:
        """Return the awaitable, with the time limit of its listener."""
        limit = self.time_limit_of(call.subscription, call.lease)
        if limit is None:
            return result
        # It brings asyncio, half of what importing melange costs, and plain listeners do without.
        from melange.consuming.event_loop import within  # noqa: PLC0415

        return within(limit, result, f"listener {call.listener_name}")

    def _await(self, call: ListenerCall, result: Awaitable[object]) -> None:
        if self.run_coroutine is None:
            if inspect.iscoroutine(result):
                result.close()
            raise ConfigurationError(
                f"listener {call.listener_name} is asynchronous: it needs the event loop of a worker, consumer.run()"
            )
        self.run_coroutine(_coroutine_of(self._limited(call, result)))


def _through(
    hook: Callable[[ListenerCall, Callable[[ListenerCall], Outcome]], object],
    run: Callable[[ListenerCall], Outcome],
) -> Callable[[ListenerCall], Outcome]:
    """Return ``run``, called through the hook."""
    return lambda call: checked_outcome(hook(call, run))


async def _coroutine_of(awaitable: Awaitable[object]) -> None:
    await awaitable
