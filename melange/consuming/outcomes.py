"""What the processing of a delivery decided."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Everything that had to happen has happened."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not done; the delivery comes back after ``delay_seconds``.

    ``counts`` is False when nothing was attempted, because somebody else is at it.
    """

    delay_seconds: float
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Reject:
    """It will not work: the message is set aside in the dead-letter queue, with the reason."""

    reason: str
    listener_name: str | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing may be done to the delivery: its lease was lost, and somebody else may have it."""


Outcome = Acknowledge | Retry | Reject | Leave

ACKNOWLEDGE = Acknowledge()
LEAVE = Leave()
