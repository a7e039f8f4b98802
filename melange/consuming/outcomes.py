"""The outcomes of the processing of a delivery."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from melange.deduplication.base import DeduplicationKey
from melange.errors import ConfigurationError, shortened

LONGEST_REASON = 1_000


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


def combined(outcomes: list[Outcome]) -> Outcome:
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
