"""Backoff: the delay before the next attempt of what has failed, exponential and with jitter."""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

JITTER = random.Random()  # noqa: S311 - nothing to guess here
"""The source of jitter. A harness seeds it, so that a run can be repeated."""
if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=JITTER.seed)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with equal jitter: a random delay between half of a doubling ceiling and all of it.

    Called with the number of attempts so far (1 after the first), it returns seconds. Any such callable can take its
    place. The lower half is always kept, so that a number of attempts lasts for a known minimal time. The upper half is
    random, so that messages that failed together are not retried together:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    first_seconds: float = 1.0
    max_seconds: float = 300.0
    random: Callable[[], float] = JITTER.random

    def __call__(self, attempts: int) -> float:
        # Beyond 2**32 the ceiling is reached already; large powers would overflow a float.
        ceiling = min(self.max_seconds, self.first_seconds * 2.0 ** min(attempts - 1, 32))
        return ceiling * (1 + self.random()) / 2


def dependable(backoff: Callable[[int], float]) -> Callable[[int], float]:
    """Return ``backoff`` in a form that always returns a delay.

    Where it raises, or returns something else, the default takes its place: a message must not be lost, nor its group
    held up, by a mistake in it.
    """

    def seconds_after(attempts: int) -> float:
        try:
            seconds = backoff(attempts)
            if 0 <= seconds < math.inf:
                return seconds
            logger.error(
                "backoff(%d) returned %r, no number of seconds: using the default", attempts, seconds
            )
        except Exception:  # it is the caller's function
            logger.exception("backoff(%d) failed: using the default", attempts)
        return Backoff()(attempts)

    return seconds_after
