"""From a delivery to its outcome: decode, choose the listeners, run them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

from melange import errors
from melange.consuming.leases import Lease
from melange.consuming.listener import Subscription
from melange.consuming.middleware import ListenerCall, Middleware, checked_outcome
from melange.consuming.outcomes import ACKNOWLEDGE, LEAVE, Acknowledge, Leave, Outcome, Reject, Retry
from melange.consuming.subscriptions import Subscriptions
from melange.deduplication.base import RunCoroutine
from melange.errors import ConfigurationError, DecodeError, DeduplicationError
from melange.messages import handled_message
from melange.serialization.serializer import EventSerializer

logger = logging.getLogger(__name__)


class DeliveryProcessor:
    """Runs the listeners that accept a delivery's event and says what is to be done with it.

    It decides and settles nothing: it never talks to the driver. Thread-safe if the listeners are.
    ``middleware`` goes around each listener, the first outermost. ``run_coroutine`` is how asynchronous
    listeners are run; the worker sets it.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        serializer: EventSerializer,
        *,
        middleware: Sequence[Middleware],
        max_attempts: int,
        backoff: Callable[[int], float],
        on_unhandled: Literal["acknowledge", "reject"],
    ) -> None:
        self._subscriptions = subscriptions
        self._serializer = serializer
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._on_unhandled = on_unhandled
        self.run_coroutine: RunCoroutine | None = None
        self._run_wrapped: Callable[[ListenerCall], Outcome] = self._attempt
        for one in reversed(middleware):
            self._run_wrapped = partial(one.around_listener, run=self._run_wrapped)

    def process(self, lease: Lease) -> Outcome:
        """Return the outcome of running every listener that accepts the delivery's event.

        What listeners and middleware raise becomes an outcome.

        Raises:
            DeduplicationError: the store can't be asked; nothing was decided about the delivery.
        """
        try:
            event_type_name, data = self._serializer.read(lease.delivery.message)
            listeners = self._subscriptions.accepting(event_type_name)
            if not listeners:
                return self._unhandled(event_type_name)
            event = self._serializer.load(
                event_type_name, data, self._subscriptions.event_classes.get(event_type_name)
            )
        except DecodeError as error:
            return Reject(f"malformed message: {error}")
        if len(listeners) == 1:
            return self._run(listeners[0], event, event_type_name, lease)
        return _combine([self._run(listener, event, event_type_name, lease) for listener in listeners])

    def failed(
        self, lease: Lease, error: BaseException, where: str, delay_seconds: float | None = None
    ) -> Outcome:
        """Return the outcome of a failed attempt: another one after the backoff, or rejection after the last."""
        attempt, last = lease.attempt, self._max_attempts
        message_id = lease.delivery.message.message_id
        logger.warning(
            "%s failed on message %s, attempt %d of %d",
            where,
            message_id,
            attempt,
            last,
            exc_info=None if isinstance(error, errors.Retry) else error,
            extra={
                "message_id": message_id,
                "queue_name": lease.delivery.queue.name,
                "listener_name": where,
                "receive_count": attempt,
            },
        )
        if attempt < last:
            return Retry(self._backoff(attempt) if delay_seconds is None else delay_seconds)
        return Reject(f"attempt {attempt} of {last} failed: {type(error).__name__}: {error}", where)

    def _unhandled(self, event_type_name: str) -> Outcome:
        if self._on_unhandled == "reject":
            return Reject(f"no listener accepts {event_type_name!r}")
        logger.debug("no listener accepts %r: acknowledged", event_type_name)
        return ACKNOWLEDGE

    def _run(self, listener: Subscription, event: Any, event_type_name: str, lease: Lease) -> Outcome:
        if lease.is_lost():
            return LEAVE
        # Around the middleware too: with an inbox it commits what the listener did.
        outside = handled_message.set(lease.delivery.message)
        try:
            return checked_outcome(self._run_wrapped(ListenerCall(listener, event, event_type_name, lease)))
        except DeduplicationError:
            raise
        except Exception as error:  # from middleware: what listeners raise is an outcome by now
            return self.failed(lease, error, listener.name)
        finally:
            handled_message.reset(outside)

    def _attempt(self, call: ListenerCall) -> Outcome:
        listener, lease = call.subscription, call.lease
        try:
            result = listener.run(call.event, lease, call.event_type_name)
            if result is not None and inspect.isawaitable(result):
                self._await(listener, result)
        except errors.Reject as steering:
            return Reject(steering.reason, listener.name)
        except errors.Retry as steering:
            return self.failed(lease, steering, listener.name, steering.delay_seconds)
        except Exception as error:
            return self.failed(lease, error, listener.name)
        return ACKNOWLEDGE

    def _await(self, listener: Subscription, result: object) -> None:
        if self.run_coroutine is None or not inspect.iscoroutine(result):
            if inspect.iscoroutine(result):
                result.close()
            raise ConfigurationError(
                f"listener {listener.name} returned {type(result).__name__}, which nobody awaits"
            )
        self.run_coroutine(result)


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
