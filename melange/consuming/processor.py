"""Decide the outcome of a delivery: decode, choose the listeners, run each once. Only this module decides."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from melange.consuming.claims import Claims, StoreUnavailableError
from melange.consuming.failures import Failures
from melange.consuming.leases import Lease
from melange.consuming.options import Deduplication, RetryPolicy
from melange.consuming.outcomes import (
    ACKNOWLEDGE,
    DUPLICATE,
    LEAVE,
    UNHANDLED,
    DeadLetter,
    Outcome,
    checked_outcome,
    combined,
)
from melange.consuming.subscriptions import ListenerCall, Subscription, Subscriptions
from melange.consuming.time_limit import LimitedRuns
from melange.deduplication.base import ClaimRefusal, DeduplicationStore, RunCoroutine
from melange.errors import ConfigurationError, DecodeError, shortened
from melange.messages import handled_message
from melange.middleware import Middleware, wrapped
from melange.serialization.serializer import EventSerializer

if TYPE_CHECKING:
    from melange.serialization.serializer import EventTypeOf

logger = logging.getLogger(__name__)

MOST_WARNED_TYPES = 100

Steps = Generator[Awaitable[object], BaseException | None, Outcome]
"""Yields what asynchronous listeners return, receives the exception with which each ended, and returns the outcome."""


class DeliveryProcessor:
    """Runs the listeners that accept a delivery's event, and returns the outcome.

    It decides and does not settle: it never calls the driver. Thread-safe if the listeners are. A worker sets
    ``run_coroutine``, which runs a coroutine and blocks until its end. ``concurrency`` is how many deliveries of
    the queue it runs at once. ``waits`` is True if hooks around deliveries or
    listeners must wait in a thread for asynchronous listeners.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        serializer: EventSerializer,
        store: DeduplicationStore | None,
        *,
        retry: RetryPolicy,
        deduplication: Deduplication,
        middleware: Sequence[Middleware],
        event_type: EventTypeOf | None,
        timeout_seconds: float | None,
        on_unhandled: Literal["acknowledge", "reject"],
    ) -> None:
        self.store = store
        self.claims = None if store is None else Claims(store, deduplication)
        self.failures = Failures(retry)
        self.limited_runs = LimitedRuns()
        self.run_coroutine: RunCoroutine | None = None
        self.concurrency = 1
        self.unhandled_count = 0
        self._subscriptions = subscriptions
        self._serializer = serializer
        self._event_type = event_type
        self._timeout_seconds = timeout_seconds
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
        self._attempt: Callable[[ListenerCall], Outcome] = self._run
        for one in reversed(middleware):
            if type(one).around_listener is not Middleware.around_listener:
                self._attempt = _through(one.around_listener, self._attempt)
        self.waits = bool(self._around_delivery) or self._attempt != self._run

    def _process(self, lease: Lease) -> Outcome:
        try:
            event_type_name, data = self._serializer.read(lease.delivery.message, self._event_type)
        except DecodeError as error:
            return DeadLetter(f"malformed message: {error}")
        subscriptions = self._subscriptions
        listeners = subscriptions.known.get(event_type_name) or subscriptions.accepting(event_type_name)
        if not listeners:
            return self._unhandled(event_type_name)
        if len(listeners) == 1:
            call = self._claimed_call(listeners[0], event_type_name, data, lease)
            return self._attempted(call) if isinstance(call, ListenerCall) else call
        outcomes = []
        for listener in listeners:
            call = self._claimed_call(listener, event_type_name, data, lease)
            outcomes.append(self._attempted(call) if isinstance(call, ListenerCall) else call)
        return combined(outcomes)

    def steps(self, lease: Lease) -> Steps:
        """Do the same as ``process``, without a thread that waits for asynchronous listeners, and without hooks.

        The steps may run in different threads, one after the other, and all in one context.
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
            outcome = self._claimed_call(listener, event_type_name, data, lease)
            if isinstance(outcome, ListenerCall):
                outcome = (
                    (yield from self._awaited(outcome)) if listener.is_async else self._attempted(outcome)
                )
            outcomes.append(outcome)
        return combined(outcomes) if len(outcomes) > 1 else outcomes[0]

    def _process_wrapped(self, lease: Lease) -> Outcome:
        around = [partial(hook, lease.delivery) for hook in self._around_delivery]
        try:
            return checked_outcome(wrapped(lambda: self._process(lease), around))
        except StoreUnavailableError:
            raise
        except Exception as error:
            return self.failures.outside_of_listeners(lease, error, "middleware")

    # --- one listener --------------------------------------------------------------------------------

    def _claimed_call(
        self, listener: Subscription, event_type_name: str, data: Any, lease: Lease
    ) -> ListenerCall | Outcome:
        """Return the call of a listener, unless it has finished this message before, or is running for it elsewhere."""
        remaining_seconds = lease.remaining_seconds
        if remaining_seconds <= 0:
            return LEAVE
        try:
            event = self._serializer.load(event_type_name, data, listener.event_classes.get(event_type_name))
        except DecodeError as error:
            return DeadLetter(f"malformed message: {error}", listener.name)
        claims = self.claims
        claimed = None if claims is None else claims.claim(listener.name, lease.delivery, remaining_seconds)
        if claimed is None:
            call = ListenerCall(listener, event, event_type_name, lease, lease.receives, None)
            is_counted = claims is None
        elif isinstance(claimed, ClaimRefusal):
            return DUPLICATE if claimed is ClaimRefusal.DONE else self.failures.of_claim(lease)
        else:
            call = ListenerCall(listener, event, event_type_name, lease, claimed.attempt, claimed)
            is_counted = True
        lease.claimed = claimed
        lease.has_begun = lease.is_completing = False
        if is_counted and call.attempt > 1 and (outcome := self.failures.without_result(call)) is not None:
            self._conclude(lease)
            return outcome
        return call

    def _attempted(self, call: ListenerCall) -> Outcome:
        """Run the listener with its hooks, and leave no claim behind."""
        lease = call.lease
        # Around the completion too: with an inbox it commits what the listener did.
        outside = handled_message.set(lease.delivery.message)
        try:
            return self._attempt(call)
        except StoreUnavailableError:
            raise
        except Exception as error:  # from middleware: what listeners raise is an outcome by now
            if lease.has_begun:
                return self.failures.of_run(call, error)
            return self.failures.outside_of_listeners(lease, error, "middleware")
        finally:
            if lease.claimed is not None:
                self._conclude(lease)
            handled_message.reset(outside)

    def _awaited(self, call: ListenerCall) -> Steps:
        """Do the same for an asynchronous listener without hooks."""
        lease = call.lease
        handled_message.set(lease.delivery.message)  # all steps of a delivery share a context of their own
        lease.has_begun = True
        try:
            error: BaseException | None = None
            try:
                result = call.subscription.run(call)
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
                self._conclude(lease)

    def _run(self, call: ListenerCall) -> Outcome:
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

    def _completed(self, call: ListenerCall) -> Outcome:
        lease = call.lease
        if call.claimed is not None:
            assert self.claims is not None
            try:
                is_marked = self.claims.complete(call.claimed, lease)
            except StoreUnavailableError:
                raise
            except Exception as error:  # the store says that it failed after all
                return self._failed(call, error)
            if not is_marked:  # a lost claim belongs to another worker now, which will acknowledge
                return LEAVE
        lease.has_begun = False  # it has ended: what hooks do from now on is not an attempt
        return ACKNOWLEDGE

    def _failed(self, call: ListenerCall, error: Exception) -> Outcome:
        outcome = self.failures.of_run(call, error)
        if call.claimed is not None:
            call.lease.claimed = call.claimed
            self._conclude(call.lease)
        return outcome

    def _conclude(self, lease: Lease) -> None:
        """Release a claim that is left, so that no other worker waits for it: after a failure, KeyboardInterrupt, hooks."""
        claimed, lease.claimed = lease.claimed, None
        if claimed is not None and self.claims is not None:
            self.claims.abandon(claimed, began=lease.has_begun)

    # --- asynchronous listeners ----------------------------------------------------------------------

    def _limited(self, call: ListenerCall, result: Awaitable[object]) -> Awaitable[object]:
        """Return the awaitable, with the time limit of its listener."""
        limit = self.time_limit_of(call.subscription, call.lease)
        if limit is None:
            return result
        # It brings asyncio, half of what importing melange costs, and plain listeners do without.
        from melange.consuming.coroutines import within  # noqa: PLC0415

        return within(limit, result, f"listener {call.listener_name}")

    def time_limit_of(self, listener: Subscription, lease: Lease) -> float | None:
        """Return the time limit of one run of the listener; None without a limit."""
        limit = self._timeout_seconds if listener.timeout_seconds is None else listener.timeout_seconds
        if lease.cutoff == math.inf:
            return limit
        left = lease.seconds_to_cutoff
        return left if limit is None else min(left, limit)

    def _await(self, call: ListenerCall, result: Awaitable[object]) -> None:
        if self.run_coroutine is None:
            if inspect.iscoroutine(result):
                result.close()
            raise ConfigurationError(
                f"listener {call.listener_name} is asynchronous: it needs the event loop of a worker, consumer.run()"
            )
        self.run_coroutine(_coroutine_of(self._limited(call, result)))

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


def _through(
    hook: Callable[[ListenerCall, Callable[[ListenerCall], Outcome]], object],
    run: Callable[[ListenerCall], Outcome],
) -> Callable[[ListenerCall], Outcome]:
    """Return ``run``, called through the hook."""
    return lambda call: checked_outcome(hook(call, run))


async def _coroutine_of(awaitable: Awaitable[object]) -> None:
    await awaitable
