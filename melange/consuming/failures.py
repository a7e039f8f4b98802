"""The outcomes of failed work on a delivery: another attempt after the backoff, or the dead-letter queue."""

from __future__ import annotations

import logging

from melange.backoff import Backoff, dependable
from melange.consuming.leases import Lease
from melange.consuming.listener import ListenerCall
from melange.consuming.options import RetryPolicy
from melange.consuming.outcomes import DeadLetter, Defer, Outcome
from melange.errors import DeduplicationError, Reject, Retry, TimeLimitExceeded
from melange.messages import log_fields

logger = logging.getLogger(__name__)

_RECEIVES_WITHOUT_DELAY = 5
_UNDECIDED_BACKOFF = Backoff(first_seconds=1.0, max_seconds=30.0)


class StoreUnavailableError(DeduplicationError):
    """The store itself failed. A ``DeduplicationError`` of a listener or a hook does not become this one."""


class Failures:
    """Decides what follows a failure, by the consumer's retry policy, and logs it. Thread-safe."""

    def __init__(self, retry: RetryPolicy, *, rejected_stay: bool = False) -> None:
        """``rejected_stay`` is True if rejected messages stay in their queue, and so are tried again."""
        self.timed_out_count = 0
        self._rejected_stay = rejected_stay
        self._retry = retry
        self._backoff = dependable(retry.backoff)

    def of_run(self, call: ListenerCall, error: Exception) -> Outcome:
        """Return the outcome of a run that raised: another one after the backoff, or rejection after the last."""
        if isinstance(error, Reject):
            return self.given_up(call, error.reason, call.attempt, error)
        if isinstance(error, TimeLimitExceeded):
            self.timed_out_count += 1
        self._log(call.lease, call.listener_name, call.attempt, error)
        if isinstance(error, self._retry.reject_on) and not isinstance(error, Retry):
            reason = f"{_described(error)} is never retried (reject_on)"
            return self.given_up(call, reason, call.attempt, error)
        if call.attempt < self._retry.max_attempts:
            delay_seconds = error.delay_seconds if isinstance(error, Retry) else self._backoff(call.attempt)
            return Defer(delay_seconds, error, call.attempt)
        reason = f"attempt {call.attempt} of {self._retry.max_attempts} failed: {_described(error)}"
        return self.given_up(call, reason, call.attempt, error)

    def of_cut_run(self, call: ListenerCall, error: TimeLimitExceeded) -> Outcome:
        """Return the outcome of a run that ended with its process, and had little time because of others before it."""
        logger.warning(
            "%s was given up on message %s after %g s, the rest of the time: this is not an attempt",
            call.listener_name,
            call.lease.delivery.message.message_id,
            error.limit_seconds,
        )
        return Defer(0, error)

    def without_result(self, call: ListenerCall) -> Outcome | None:
        """Return the outcome if all attempts are used up before this run: processes died in the last ones."""
        is_by_receives = call.claimed is None  # which do not tell of what
        if call.attempt <= self._retry.max_attempts or (is_by_receives and self._rejected_stay):
            return None
        attempts = call.attempt - 1
        return self.given_up(call, f"{attempts} attempts failed or did not come to an end", attempts)

    def given_up(
        self, call: ListenerCall, reason: str, attempts: int, error: Exception | None = None
    ) -> Outcome:
        """Return the outcome of a message that this listener does not try again."""
        keys = () if call.claimed is None else (call.claimed.key,)
        return DeadLetter(reason, call.listener_name, attempts, keys, error)

    def of_claim(self, lease: Lease) -> Outcome:
        """Return the outcome while another copy of the message is in work: no attempt was made, so none is used up."""
        return Defer(self._undecided_seconds(lease))

    def of_processing(self, lease: Lease, error: BaseException) -> Outcome:
        """Return the outcome of a delivery when its processing raised."""
        if isinstance(error, StoreUnavailableError):
            logger.warning("message %s waits: %s", lease.delivery.message.message_id, error)
            return self.of_store(lease)
        return self.outside_of_listeners(lease, error)

    def of_store(self, lease: Lease) -> Defer:
        """Return the outcome of a delivery when the deduplication store is unavailable: nothing was attempted.

        The first few times it comes back at once. Then the delay grows, because the broker limits receives: a store can
        answer ``check`` and still refuse claims.
        """
        again = lease.receives - _RECEIVES_WITHOUT_DELAY
        return Defer(_UNDECIDED_BACKOFF(again) if again > 0 else 0)

    def outside_of_listeners(self, lease: Lease, error: BaseException, where: str = "processing") -> Outcome:
        """Return the outcome of a delivery when its processing broke off outside of any listener.

        No attempt was made, so none is used up: it is tried again until the broker's own limit.
        """
        self._log(lease, where, lease.receives, error)
        return Defer(self._undecided_seconds(lease), error)

    def _undecided_seconds(self, lease: Lease) -> float:
        """Return the delay after a receive without a run: at a consumer's shorter backoff, receives would soon reach the limit."""
        return max(self._backoff(lease.receives), _UNDECIDED_BACKOFF(lease.receives))

    def _log(self, lease: Lease, where: str, attempt: int, error: BaseException) -> None:
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


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its __str__ fails
        return type(error).__name__
