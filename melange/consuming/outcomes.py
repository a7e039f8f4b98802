"""The outcomes of a delivery: which there are, that of several listeners, and that of a failure by the retry policy."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Literal

from melange.backoff import Backoff, dependable
from melange.consuming.leases import Lease
from melange.consuming.listener import ListenerCall
from melange.consuming.options import RetryPolicy
from melange.deduplication.base import DeduplicationKey
from melange.errors import (
    ConfigurationError,
    DeduplicationError,
    Reject,
    Retry,
    TimeLimitExceeded,
    shortened,
)
from melange.messages import delivery_log_fields

logger = logging.getLogger(__name__)

LONGEST_REASON = 1_000

_RECEIVES_WITHOUT_DELAY = 5
_UNDECIDED_BACKOFF = Backoff(first_seconds=1.0, max_seconds=30.0)


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """All listeners have finished: the message leaves its queue.

    ``reason`` tells the cases apart: listeners ran (``"done"``), all of them had finished this message before
    (``"duplicate"``), or no listener accepts its type (``"unhandled"``).
    """

    reason: Literal["done", "duplicate", "unhandled"] = field(default="done", compare=False)


@dataclass(frozen=True, slots=True)
class Defer:
    """Not done: the message is delivered again after ``delay_seconds``.

    ``error`` is the exception of the failed run, and ``attempt`` its number; None and 0 if no listener ran.

    Raises:
        ValueError: that is not a number of seconds.
    """

    delay_seconds: float
    error: BaseException | None = field(default=None, compare=False, repr=False)
    attempt: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        # Checked here, where the slip is: settling must not fail for one message, its neighbours would suffer.
        delay = self.delay_seconds
        if not (isinstance(delay, (int, float)) and 0 <= delay < math.inf):
            raise ValueError(f"a delay is a number of seconds, not {shortened(delay)}")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The message goes to the dead-letter queue, with the reason.

    ``attempts`` is the highest number of attempts of its listeners. ``keys`` are those of the listeners that gave up.
    ``error`` is the exception of the last run, if there was one. A reason that is not text is written as text.
    """

    reason: str
    listener_name: str | None = None
    attempts: int = 0
    keys: tuple[DeduplicationKey, ...] = ()
    error: BaseException | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        reason = self.reason if isinstance(self.reason, str) else shortened(self.reason, LONGEST_REASON)
        object.__setattr__(self, "reason", reason[:LONGEST_REASON])


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing may be done: the lease was lost, and another receiver may have the message."""


Outcome = Acknowledge | Defer | DeadLetter | Leave

ACKNOWLEDGE = Acknowledge()
DUPLICATE = Acknowledge("duplicate")
UNHANDLED = Acknowledge("unhandled")
LEAVE = Leave()
RELEASE = Defer(0)
"""For a listener that has not begun: no attempt was made, so none is used up."""


def combined_outcome(outcomes: list[Outcome]) -> Outcome:
    """Return the combined outcome of several listeners.

    If one listener may still succeed, the message is retried, also if another one rejects it. Of several delays the
    longest is used, so that no retry comes too early.
    """
    if any(isinstance(outcome, Leave) for outcome in outcomes):
        return LEAVE
    delays = [outcome for outcome in outcomes if isinstance(outcome, Defer)]
    if delays:
        return max(delays, key=lambda outcome: outcome.delay_seconds)
    rejections = [outcome for outcome in outcomes if isinstance(outcome, DeadLetter)]
    if not rejections:
        all_before = all(isinstance(one, Acknowledge) and one.reason == "duplicate" for one in outcomes)
        return DUPLICATE if all_before else ACKNOWLEDGE
    return DeadLetter(
        reason="; ".join(dict.fromkeys(rejection.reason for rejection in rejections)),
        listener_name=", ".join(rejection.listener_name or "" for rejection in rejections),
        attempts=max(rejection.attempts for rejection in rejections),
        keys=tuple(key for rejection in rejections for key in rejection.keys),
        error=next((rejection.error for rejection in rejections if rejection.error is not None), None),
    )


def checked_outcome(outcome: object) -> Outcome:
    """Return what a hook returned; raise ``ConfigurationError`` if that is not an outcome."""
    if not isinstance(outcome, Outcome):
        raise ConfigurationError(
            f"middleware returned {type(outcome).__name__}: return the outcome of what it wraps"
        )
    return outcome


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
        """Return the delay after a receive without a run. At a shorter backoff, receives would soon reach the limit."""
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
                **delivery_log_fields(lease.delivery),
                "listener_name": where,
                "attempt": attempt,
            },
        )


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its __str__ fails
        return type(error).__name__
