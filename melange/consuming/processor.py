"""From a delivery to its outcome: decode, choose the listeners, deduplicate, run."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Literal

from melange import errors
from melange.consuming.leases import Lease
from melange.consuming.listener import Subscription
from melange.consuming.outcomes import ACKNOWLEDGE, LEAVE, Acknowledge, Leave, Outcome, Reject, Retry
from melange.consuming.subscriptions import Subscriptions
from melange.deduplication.base import Claimed, ClaimRefusal, DeduplicationKey, DeduplicationStore
from melange.errors import ConfigurationError, DecodeError, DeduplicationError
from melange.identifiers import new_token
from melange.serialization import EventSerializer

logger = logging.getLogger(__name__)

RunCoroutine = Callable[[Coroutine[Any, Any, object]], object]
"""Runs a coroutine to its end and returns what it returned, blocking the calling thread."""


class DeliveryProcessor:
    """Runs the listeners that accept a delivery's event and says what is to be done with it.

    It decides and settles nothing: it never talks to the driver. Thread-safe if the listeners are.
    ``run_coroutine`` is how asynchronous listeners are run; the worker sets it.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        serializer: EventSerializer,
        *,
        deduplication: DeduplicationStore | None,
        max_attempts: int,
        backoff: Callable[[int], float],
        on_unhandled: Literal["acknowledge", "reject"],
        on_unavailable: Literal["retry", "process"],
    ) -> None:
        self._subscriptions = subscriptions
        self._serializer = serializer
        self._deduplication = deduplication
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._on_unhandled = on_unhandled
        self._on_unavailable = on_unavailable
        self.run_coroutine: RunCoroutine | None = None

    def process(self, lease: Lease) -> Outcome:
        """Return the outcome of running every listener that accepts the delivery's event.

        What listeners raise becomes an outcome.

        Raises:
            DeduplicationError: the store can't be asked; nothing was decided about the delivery.
        """
        try:
            event_type_name, data = self._serializer.read(lease.delivery.message)
            listeners = self._subscriptions.accepting(event_type_name)
            if not listeners:
                return self._unhandled(event_type_name)
            event = self._serializer.load(event_type_name, data, self._subscriptions.event_classes)
        except DecodeError as error:
            return Reject(f"malformed message: {error}")
        if len(listeners) == 1:
            return self._run(listeners[0], event, lease, event_type_name)
        return _combine([self._run(listener, event, lease, event_type_name) for listener in listeners])

    def _unhandled(self, event_type_name: str) -> Outcome:
        if self._on_unhandled == "reject":
            return Reject(f"no listener accepts {event_type_name!r}")
        logger.debug("no listener accepts %r: acknowledged", event_type_name)
        return ACKNOWLEDGE

    def _run(self, listener: Subscription, event: Any, lease: Lease, event_type_name: str) -> Outcome:
        """Run one listener unless it has finished this message before or somebody is at it."""
        remaining_seconds = lease.remaining_seconds
        if remaining_seconds <= 0:
            return LEAVE
        store = self._deduplication
        if store is None:
            return self._attempt(listener, event, lease, event_type_name)
        message = lease.delivery.message
        key = DeduplicationKey(lease.delivery.queue.name, listener.name, message.message_id)
        try:
            claimed = store.claim(key, new_token(), remaining_seconds, body=message.body)
        except DeduplicationError:
            if self._on_unavailable == "retry":
                raise
            return self._attempt(listener, event, lease, event_type_name)
        if not isinstance(claimed, Claimed):
            return self._refused(claimed, listener, lease)
        lease.claim = claimed
        try:
            outcome = self._attempt(listener, event, lease, event_type_name)
        except BaseException:  # KeyboardInterrupt, SystemExit: not done, and nobody should wait for us
            store.abandon(claimed)
            raise
        finally:
            lease.claim = None
        if outcome is not ACKNOWLEDGE:
            store.abandon(claimed)
            return outcome
        # A claim that was lost meanwhile is somebody else's work by now: not ours to acknowledge.
        return ACKNOWLEDGE if store.complete(claimed) else LEAVE

    def _refused(self, refusal: ClaimRefusal, listener: Subscription, lease: Lease) -> Outcome:
        if refusal is ClaimRefusal.DONE:
            return ACKNOWLEDGE
        if refusal is ClaimRefusal.CONFLICT:
            message_id = lease.delivery.message.message_id
            return Reject(f"another message of the id {message_id} was processed before", listener.name)
        # Busy is no failed attempt, so it never rejects.
        return Retry(self._backoff(lease.attempt), counts=False)

    def _attempt(self, listener: Subscription, event: Any, lease: Lease, event_type_name: str) -> Outcome:
        try:
            result = listener.run(event, lease, event_type_name)
            if result is not None and inspect.isawaitable(result):
                self._await(listener, result)
        except errors.Reject as steering:
            return Reject(steering.reason, listener.name)
        except errors.Retry as steering:
            return self._failed(listener, lease, steering, steering.delay_seconds)
        except Exception as error:
            return self._failed(listener, lease, error, self._backoff(lease.attempt))
        return ACKNOWLEDGE

    def _await(self, listener: Subscription, result: object) -> None:
        if self.run_coroutine is None or not inspect.iscoroutine(result):
            if inspect.iscoroutine(result):
                result.close()
            raise ConfigurationError(
                f"listener {listener.name} returned {type(result).__name__}, which nobody awaits"
            )
        self.run_coroutine(result)

    def _failed(
        self, listener: Subscription, lease: Lease, error: Exception, delay_seconds: float
    ) -> Outcome:
        attempt, last = lease.attempt, self._max_attempts
        logger.warning(
            "listener %s failed on message %s, attempt %d of %d",
            listener.name,
            lease.delivery.message.message_id,
            attempt,
            last,
            exc_info=None if isinstance(error, errors.Retry) else error,
            extra={
                "message_id": lease.delivery.message.message_id,
                "queue_name": lease.delivery.queue.name,
                "listener_name": listener.name,
                "receive_count": attempt,
            },
        )
        if attempt < last:
            return Retry(delay_seconds)
        return Reject(f"attempt {attempt} of {last} failed: {type(error).__name__}: {error}", listener.name)


def _combine(outcomes: Sequence[Outcome]) -> Outcome:
    """Return what several listeners' outcomes come to.

    A listener that may yet succeed is waited for, also when another rejects: the dead-letter queue is for
    when nothing is left to try. Of several delays the longest holds, so that nobody comes too early.
    """
    if any(isinstance(outcome, Leave) for outcome in outcomes):
        return LEAVE
    retries = [outcome for outcome in outcomes if isinstance(outcome, Retry)]
    if retries:
        return Retry(
            max(retry.delay_seconds for retry in retries), counts=any(retry.counts for retry in retries)
        )
    return _combine_rejects([outcome for outcome in outcomes if isinstance(outcome, Reject)])


def _combine_rejects(rejects: Sequence[Reject]) -> Acknowledge | Reject:
    if not rejects:
        return ACKNOWLEDGE
    return Reject(
        "; ".join(reject.reason for reject in rejects), _join(reject.listener_name for reject in rejects)
    )


def _join(names: Iterable[str | None]) -> str:
    return ", ".join(name for name in names if name)
