"""Decide the outcome of a delivery: decode, choose the listeners, run each once. Only this module decides."""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from melange.backoff import Backoff, dependable
from melange.consuming.leases import Lease
from melange.consuming.options import Deduplication, RetryPolicy
from melange.consuming.outcomes import (
    ACKNOWLEDGE,
    DUPLICATE,
    LEAVE,
    UNHANDLED,
    DeadLetter,
    Defer,
    Outcome,
    checked_outcome,
    combined,
)
from melange.consuming.subscriptions import ListenerCall, Subscription, Subscriptions
from melange.consuming.time_limit import run_limited
from melange.correlation import log_fields
from melange.deduplication.base import (
    Claimed,
    ClaimRefusal,
    DeduplicationKey,
    DeduplicationStore,
    RunCoroutine,
    content_of,
)
from melange.errors import (
    ConfigurationError,
    DecodeError,
    DeduplicationError,
    Reject,
    Retry,
    TimeLimitExceeded,
    shortened,
)
from melange.messages import handled_message, new_token
from melange.middleware import Middleware, wrapped
from melange.serialization.serializer import EventSerializer

if TYPE_CHECKING:
    from melange.serialization.serializer import EventTypeOf

logger = logging.getLogger(__name__)

_RECEIVES_WITHOUT_DELAY = 5
_UNDECIDED_BACKOFF = Backoff(first_seconds=1.0, max_seconds=30.0)
MOST_REMEMBERED_CLAIMS = 1_000
MOST_WARNED_TYPES = 100


class DeliveryProcessor:
    """Runs the listeners that accept a delivery's event, and returns the outcome.

    It decides and does not settle: it never calls the driver. Thread-safe if the listeners are. A worker sets
    ``run_coroutine``, which runs asynchronous listeners.
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
        self.run_coroutine: RunCoroutine | None = None
        self.unhandled_count = 0
        self.timed_out_count = 0
        self._subscriptions = subscriptions
        self._serializer = serializer
        self._retry = retry
        self._backoff = dependable(retry.backoff)
        self._deduplication = deduplication
        self._middleware = middleware
        self._event_type = event_type
        self._timeout_seconds = timeout_seconds
        self._on_unhandled = on_unhandled
        self._warned_types: set[str] = set()
        self._unanswered_claims: deque[Claimed] = deque(maxlen=MOST_REMEMBERED_CLAIMS)
        self.process: Callable[[Lease], Outcome] = self._process_wrapped if middleware else self._process
        """Returns the outcome of running every listener that accepts the delivery's event.

        What listeners and middleware raise becomes an outcome. It raises ``DeduplicationError`` when the store is
        unavailable: then nothing was decided about the delivery.
        """
        self._attempt: Callable[[ListenerCall], Outcome] = self._run
        for one in reversed(middleware):
            self._attempt = _through(one.around_listener, self._attempt)

    def _process(self, lease: Lease) -> Outcome:
        try:
            event_type_name, data = self._serializer.read(lease.delivery.message, self._event_type)
        except DecodeError as error:
            return DeadLetter(f"malformed message: {error}")
        listeners = self._subscriptions.accepting(event_type_name)
        if not listeners:
            return self._unhandled(event_type_name)
        if len(listeners) == 1:
            return self._once(listeners[0], event_type_name, data, lease)
        return combined([self._once(listener, event_type_name, data, lease) for listener in listeners])

    def _once(
        self, listener: Subscription, event_type_name: str, data: dict[str, Any], lease: Lease
    ) -> Outcome:
        """Run one listener unless it has finished this message before, or is running for it elsewhere."""
        if lease.is_lost():
            return LEAVE
        try:
            event = self._serializer.load(event_type_name, data, listener.event_classes.get(event_type_name))
        except DecodeError as error:
            return DeadLetter(f"malformed message: {error}", listener.name)
        claimed = self._claim(listener, lease)
        if isinstance(claimed, ClaimRefusal):
            # Another copy of the message is in work: there was no attempt, so none is used up.
            return DUPLICATE if claimed is ClaimRefusal.DONE else Defer(self._backoff(_receives(lease)))
        attempt = _receives(lease) if claimed is None else claimed.attempt
        return self._attempted(ListenerCall(listener, event, event_type_name, lease, attempt, claimed))

    def _attempted(self, call: ListenerCall) -> Outcome:
        """Run the listener with its hooks, and leave no claim behind."""
        lease, attempt = call.lease, call.attempt
        lease.claimed = call.claimed
        lease.has_begun = lease.is_completing = False
        # Around the completion too: with an inbox it commits what the listener did.
        outside = handled_message.set(lease.delivery.message)
        try:
            is_counted = call.claimed is not None or self.store is None
            if is_counted and attempt > self._retry.max_attempts:  # processes died in the last ones
                return self._given_up(
                    call, f"{attempt - 1} attempts failed or did not come to an end", attempt - 1
                )
            return self._attempt(call)
        except DeduplicationError:
            raise
        except Exception as error:  # from middleware: what listeners raise is an outcome by now
            if lease.has_begun:
                return self._failed(call, error)
            return self.broken_off(lease, error, "middleware")
        finally:
            # Where it was concluded there is none left. Otherwise no other worker should wait for it: KeyboardInterrupt, hooks.
            if lease.claimed is not None:
                self._abandon(lease.claimed, began=lease.has_begun)
                lease.claimed = None
            handled_message.reset(outside)

    def _process_wrapped(self, lease: Lease) -> Outcome:
        around = [partial(one.around_delivery, lease.delivery) for one in self._middleware]
        try:
            return checked_outcome(wrapped(lambda: self._process(lease), around))
        except DeduplicationError:
            raise
        except Exception as error:
            return self.broken_off(lease, error, "middleware")

    # --- claims ------------------------------------------------------------------------------------

    def _claim(self, listener: Subscription, lease: Lease) -> Claimed | ClaimRefusal | None:
        if self.store is None:
            return None
        delivery = lease.delivery
        message = delivery.message
        message_id = message.message_id
        if self._deduplication.identity == "broker":
            message_id = delivery.broker_message_id or message_id
        key = DeduplicationKey(delivery.queue.address, listener.name, message_id, content_of(message))
        token = new_token()
        try:
            if self._unanswered_claims:
                self.store_is_back()
            return self.store.claim(key, token, lease.remaining_seconds)
        except DeduplicationError:
            # It may have been granted all the same, with the answer lost: released when the store can be asked.
            self._unanswered_claims.append(Claimed(key, token))
            if self._deduplication.on_unavailable == "process":
                return None
            raise

    def _complete(self, claimed: Claimed, lease: Lease) -> Outcome:
        """Mark the listener as finished; wait while the store is unavailable, because the effect has happened."""
        assert self.store is not None
        pause_seconds = 0.1
        # From now on the answer to the completion decides if the claim was held, not a renewal.
        lease.is_completing = True
        while True:
            lease.claimed = None
            try:
                is_marked = self.store.complete(claimed)
            except DeduplicationError as error:
                if self._deduplication.on_unavailable == "process":
                    return ACKNOWLEDGE
                lease.claimed = claimed
                if lease.is_lost():
                    raise
                logger.warning("message %s is done, its mark waits: %s", claimed.key.message_id, error)
                threading.Event().wait(pause_seconds)
                pause_seconds = min(1.0, 2 * pause_seconds)
            else:
                # A lost claim belongs to another worker now, which will acknowledge.
                return ACKNOWLEDGE if is_marked else LEAVE

    def _abandon(self, claimed: Claimed, *, began: bool) -> None:
        assert self.store is not None
        try:
            self.store.abandon(claimed, began=began)
        except DeduplicationError as error:
            # It ends with its lease; how the listener ended must not be hidden by that.
            logger.warning("the claim on message %s could not be released: %s", claimed.key.message_id, error)

    def store_is_back(self) -> None:
        """Release the claims that were granted in an answer that got lost: the listeners did not run."""
        assert self.store is not None
        while True:
            try:
                claimed = self._unanswered_claims.popleft()
            except IndexError:
                return
            try:
                self.store.abandon(claimed, began=False)
            except DeduplicationError:
                self._unanswered_claims.append(claimed)
                raise

    # --- running -----------------------------------------------------------------------------------

    def _run(self, call: ListenerCall) -> Outcome:
        """Run the listener, then mark it as finished or release its claim."""
        listener, lease, claimed = call.subscription, call.lease, call.claimed
        lease.has_begun = True
        limit = self.time_limit_of(listener, lease)
        has_returned = False
        outcome: Outcome
        try:
            if limit is None or listener.is_async:
                result = listener.run(call)
            else:
                result = run_limited(lambda: listener.run(call), limit, f"listener {listener.name}")
            if result is not None and inspect.isawaitable(result):
                self._await(listener, result, limit)
            has_returned = True
            outcome = ACKNOWLEDGE if claimed is None else self._complete(claimed, lease)
            lease.has_begun = False  # it has ended: what hooks do from now on is not an attempt
            return outcome
        except Reject as steering:
            outcome = self._given_up(call, steering.reason, call.attempt, steering)
        except Retry as steering:
            outcome = self._failed(call, steering, steering.delay_seconds)
        except Exception as error:  # from the listener, or from a store that says that it failed after all
            if has_returned and isinstance(error, DeduplicationError):
                raise
            outcome = self._failed(call, error)
        if claimed is not None:
            lease.claimed = None
            self._abandon(claimed, began=True)
        return outcome

    def _await(self, listener: Subscription, result: Any, limit: float | None) -> None:
        if self.run_coroutine is None:
            if inspect.iscoroutine(result):
                result.close()
            raise ConfigurationError(
                f"listener {listener.name} is asynchronous: it needs the event loop of a worker, consumer.run()"
            )
        if limit is not None:
            # It brings asyncio, half of what importing melange costs, and plain listeners do without.
            from melange.consuming.coroutines import within  # noqa: PLC0415

            result = within(limit, result, f"listener {listener.name}")
        self.run_coroutine(_awaited(result))

    def time_limit_of(self, listener: Subscription, lease: Lease) -> float | None:
        """Return the time limit of one run of the listener; None without a limit."""
        limit = self._timeout_seconds if listener.timeout_seconds is None else listener.timeout_seconds
        if lease.cutoff == math.inf:
            return limit
        left = lease.seconds_to_cutoff
        return left if limit is None else min(left, limit)

    # --- failures ----------------------------------------------------------------------------------

    def undecided(self, lease: Lease) -> Defer:
        """Return the outcome of a delivery when the deduplication store is unavailable: nothing was attempted.

        The first few times it comes back at once. Then the delay grows, because the broker limits receives: a store can
        answer ``check`` and still refuse claims.
        """
        again = _receives(lease) - _RECEIVES_WITHOUT_DELAY
        return Defer(_UNDECIDED_BACKOFF(again) if again > 0 else 0)

    def broken_off(self, lease: Lease, error: BaseException, where: str = "processing") -> Outcome:
        """Return the outcome of a delivery when its processing broke off outside of any listener.

        No attempt was made, so none is used up: it is tried again until the broker's own limit.
        """
        receives = _receives(lease)
        self._log_failure(lease, where, receives, error)
        return Defer(self._backoff(receives), error)

    def _failed(self, call: ListenerCall, error: Exception, delay_seconds: float | None = None) -> Outcome:
        """Return the outcome of a failed attempt: another one after the backoff, or rejection after the last."""
        self.timed_out_count += isinstance(error, TimeLimitExceeded)
        self._log_failure(call.lease, call.listener_name, call.attempt, error)
        if delay_seconds is None and isinstance(error, self._retry.reject_on):
            reason = f"{_described(error)} is never retried (reject_on)"
            return self._given_up(call, reason, call.attempt, error)
        if call.attempt < self._retry.max_attempts:
            delay_seconds = self._backoff(call.attempt) if delay_seconds is None else delay_seconds
            return Defer(delay_seconds, error, call.attempt)
        reason = f"attempt {call.attempt} of {self._retry.max_attempts} failed: {_described(error)}"
        return self._given_up(call, reason, call.attempt, error)

    def _given_up(
        self, call: ListenerCall, reason: str, attempts: int, error: Exception | None = None
    ) -> Outcome:
        keys = () if call.claimed is None else (call.claimed.key,)
        return DeadLetter(reason, call.listener_name, attempts, keys, error)

    def _log_failure(self, lease: Lease, where: str, attempt: int, error: BaseException) -> None:
        message_id = lease.delivery.message.message_id
        logger.warning(
            "%s failed on message %s, attempt %d of %d",
            where,
            message_id,
            attempt,
            self._retry.max_attempts,
            exc_info=None if isinstance(error, (Retry, TimeLimitExceeded)) else error,
            extra={
                **log_fields(lease.delivery.message),
                "queue_name": lease.delivery.queue.name,
                "listener_name": where,
                "attempt": attempt,
                "receive_count": lease.delivery.receive_count,
            },
        )

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


async def _awaited(awaitable: Awaitable[object]) -> None:
    await awaitable


def _receives(lease: Lease) -> int:
    """Return the number of receives and retries: the attempts, if nothing else counts them."""
    return lease.delivery.receive_count + lease.retries


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its __str__ fails
        return type(error).__name__
