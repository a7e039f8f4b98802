"""Delays and due times of messages, checked."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from melange.clock import Clock
from melange.errors import ConfigurationError

_LONGEST_SECONDS = 10 * 366 * 86_400


def due_time(delay_seconds: float | None, deliver_at: datetime | None, clock: Clock) -> datetime | None:
    """Return when a message is due; None for now.

    Raises:
        ConfigurationError: both are given, the delay is not a number from 0 to ten years, or the time is naive.
    """
    if delay_seconds is not None and deliver_at is not None:
        raise ConfigurationError("give delay_seconds= or deliver_at=, not both")
    if delay_seconds is not None:
        is_number = isinstance(delay_seconds, (int, float)) and not isinstance(delay_seconds, bool)
        if not is_number or not 0 <= delay_seconds <= _LONGEST_SECONDS:
            raise ConfigurationError(
                f"delay_seconds must be a number from 0 to {_LONGEST_SECONDS:,}, not {delay_seconds!r}"
            )
        return clock.now() + timedelta(seconds=delay_seconds) if delay_seconds else None
    if deliver_at is None:
        return None
    if not isinstance(deliver_at, datetime) or deliver_at.utcoffset() is None:
        raise ConfigurationError(
            f"deliver_at must be an aware datetime, such as datetime.now(UTC) + timedelta(hours=1), not {deliver_at!r}"
        )
    return deliver_at if deliver_at > clock.now() else None


def delay_of(delay_seconds: int, deliver_at: datetime | None, clock: Clock) -> int:
    """Return the delay in whole seconds, rounded up, so that a message never comes before its time.

    Raises:
        ConfigurationError: as ``due_time``.
    """
    if deliver_at is None:
        return delay_seconds
    due_at = due_time(delay_seconds or None, deliver_at, clock)
    return 0 if due_at is None else math.ceil((due_at - clock.now()).total_seconds())
