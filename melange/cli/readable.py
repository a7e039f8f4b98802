"""Counts and ages as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


def counted(count: int, noun: str) -> str:
    """Return the number with its noun: 1 message, 1,200 messages."""
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


def seconds_since(time: datetime) -> float:
    """Return the seconds since then; 0 if the clock of the writer was ahead."""
    return max(0.0, (datetime.now(UTC) - time).total_seconds())


def age_since(time: datetime | None) -> str:
    """Return the age in its largest unit; a dash if there is no readable time."""
    return "-" if time is None else age(seconds_since(time))


def age(seconds: float) -> str:
    """Return a duration in its largest unit, rounded down: 45s, 12m, 5h, 3d."""
    for name, length in _UNITS:
        if seconds >= length:
            return f"{seconds // length:.0f}{name}"
    return f"{seconds:.0f}s" if seconds < 59.5 else "59s"
