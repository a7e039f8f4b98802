"""Decide the outcome of a delivery: read it, choose the listeners, and for each claim the message, run and mark it.

Only this module decides. What follows a failure it finds in ``outcomes``.
"""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any, Literal

from melange.consuming.leases import Lease
from melange.consuming.listener import ListenerCall, Subscription
from melange.consuming.options import Deduplication
from melange.consuming.outcomes import (
    ACKNOWLEDGE,
    DUPLICATE,
    LEAVE,
    RELEASE,
    UNHANDLED,
    DeadLetter,
    Failures,
    Outcome,
    StoreUnavailableError,
    checked_outcome,
    combined_outcome,
)
from melange.consuming.subscriptions import Subscriptions
from melange.consuming.time_limit import TimeLimits
from melange.deduplication.base import (
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
    RunCoroutine,
)
from melange.errors import ConfigurationError, DecodeError, DeduplicationError, TimeLimitExceeded, shortened
from melange.messages import content_of, handled_message, new_uuid
from melange.middleware import Middleware, wrapped
from melange.serialization.serializer import EventSerializer, EventTypeOf

logger = logging.getLogger(__name__)

MOST_WARNED_TYPES = 100
MOST_REMEMBERED_CLAIMS = 1_000

_new = tuple.__new__
"""Makes a named tuple of its fields, in half of the time of its own constructor."""

Steps = Generator[Awaitable[object] | None, BaseException | None, Outcome]
"""Yields what asynchronous listeners return, receives the exception with which each ended, and returns the outcome.

None is yielded before a step that may block."""


class DeliveryProcessor:
    """Runs the listeners that accept a delivery's event, and returns the outcome.

    It decides and does not settle: it never calls the driver. Thread-safe if the listeners are. ``waits`` is True if hooks
    around deliveries or listeners must wait in a thread for asynchronous listeners; ``answers_at_once`` if no step of an
    asynchronous listener blocks.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        serializer: EventSerializer,
        attempts: Attempts,
        failures: Failures,
        *,
        middleware: Sequence[Middleware],
        event_type: EventTypeOf | None,
        on_unhandled: Literal["acknowledge", "reject"],
    ) -> None:
        self.attempts = attempts
        self.failures = failures
        self.unhandled_count = 0
        self._subscriptions = subscriptions
        self._serializer = serializer
        self._event_type = event_type
        self._on_unhandled = on_unhandled
        self._warned_types: set[str] = set()
        self._around_delivery = [
            one.around_delivery
            for one in middleware
            if type(one).around_delivery is not Middleware.around_delivery
        ]
        self.process: Callable[[Lease], Outcome] = (
            self._process_wrapped if self._around_delivery else self._process
        )
        """Returns the outcome of running every listener that accepts the delivery's event.

        What listeners and middleware raise becomes an outcome. It raises ``StoreUnavailableError`` when the store is
        unavailable: then nothing was decided about the delivery.
        """
        self.waits = bool(self._around_delivery) or attempts.is_hooked
        self.answers_at_once = attempts.store is None or attempts.store.answers_at_once

    def _process(self, lease: Lease) -> Outcome:
        try:
            event_type_name, data = self._serializer.read(lease.delivery.message, self._event_type)
        except DecodeError as error:
            return DeadLetter(f"malformed message: {error}")
        subscriptions, attempt = self._subscriptions, self.attempts.make
        listeners = subscriptions.known.get(event_type_name) or subscriptions.accepting(event_type_name)
        if len(listeners) == 1:
            return attempt(listeners[0], event_type_name, data, lease)
        if not listeners:
            return self._unhandled(event_type_name)
        return combined_outcome([attempt(listener, event_type_name, data, lease) for listener in listeners])

    def steps(self, lease: Lease) -> Steps:
        """Do the same as ``process``, without a thread that waits for asynchronous listeners, and without hooks.

        The steps may run in different threads, one after the other, and all in one context. Before a step that may block,
        it yields None.
        """
        try:
            event_type_name, data = self._serializer.read(lease.delivery.message, self._event_type)
        except DecodeError as error:
            return DeadLetter(f"malformed message: {error}")
        listeners = self._subscriptions.accepting(event_type_name)
        if not listeners:
            return self._unhandled(event_type_name)
        outcomes = []
        for listener in listeners:
            if listener.is_async:
                outcome = yield from self.attempts.steps(listener, event_type_name, data, lease)
            else:
                yield None
                outcome = self.attempts.make(listener, event_type_name, data, lease)
            outcomes.append(outcome)
        return combined_outcome(outcomes) if len(outcomes) > 1 else outcomes[0]

    def _process_wrapped(self, lease: Lease) -> Outcome:
        around = [partial(hook, lease.delivery) for hook in self._around_delivery]
        try:
            return checked_outcome(wrapped(lambda: self._process(lease), around))
        except StoreUnavailableError:
            raise
        except Exception as error:
            return self.failures.outside_of_listeners(lease, error, "middleware")

    def _unhandled(self, event_type_name: str) -> Outcome:
        name = shortened(event_type_name)
        if self._on_unhandled == "reject":
            return DeadLetter(f"no listener accepts {name}")
        self.unhandled_count += 1
        if name not in self._warned_types and len(self._warned_types) < MOST_WARNED_TYPES:
            self._warned_types.add(name)
            logger.warning(
                "no listener accepts events of type %s: they are acknowledged. Subscribe a listener, filter them out, "
                "or dead-letter them with on_unhandled='reject'",
                name,
            )
        return UNHANDLED


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
        time_limits: TimeLimits,
    ) -> None:
        self.store = store
        self.run_coroutine: RunCoroutine | None = None
        self._serializer = serializer
        self._failures = failures
        self._runs_without_store = deduplication.on_unavailable == "process"
        self._by_broker_id = deduplication.identity == "broker"
        self._time_limits = time_limits
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
                    error = yield self._time_limits.limited(call, result)
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

    # --- the claim -----------------------------------------------------------------------------------

    def _claimed_call(
        self, listener: Subscription, event_type_name: str, data: Any, lease: Lease
    ) -> ListenerCall | Outcome:
        """Return the listener's call with its claim, or the outcome if it may not run."""
        remaining_seconds = lease.remaining_seconds
        if remaining_seconds <= 0 or lease.is_ending:
            return LEAVE if remaining_seconds <= 0 else RELEASE
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
            parts = delivery.queue.address, listener.name, message_id, content_of(delivery.message)
            key = _new(DeduplicationKey, parts)
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
        if isinstance(error, TimeLimitExceeded) and self._time_limits.was_cut_short(call, error):
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
            if self._time_limits.default_seconds or listener.timeout_seconds or lease.cutoff != math.inf:
                result = self._time_limits.run(call)
            elif listener.keywords:
                result = listener.run(call)
            else:
                result = listener.process(call.event)
            if result is not None and inspect.isawaitable(result):
                self._await(call, result)
        except Exception as error:
            return self._failed(call, error)
        return self._completed(call)

    def _await(self, call: ListenerCall, result: Awaitable[object]) -> None:
        if self.run_coroutine is None:
            if inspect.iscoroutine(result):
                result.close()
            raise ConfigurationError(
                f"listener {call.listener_name} is asynchronous: it needs the event loop of a worker, consumer.run()"
            )
        self.run_coroutine(_coroutine_of(self._time_limits.limited(call, result)))


def _through(
    hook: Callable[[ListenerCall, Callable[[ListenerCall], Outcome]], object],
    run: Callable[[ListenerCall], Outcome],
) -> Callable[[ListenerCall], Outcome]:
    """Return ``run``, called through the hook."""
    return lambda call: checked_outcome(hook(call, run))


async def _coroutine_of(awaitable: Awaitable[object]) -> None:
    await awaitable
